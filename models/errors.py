"""Every error that a caller can see, in one hierarchy.

    FusionError
    ├── BadRequest            400  the request is wrong; repeating it will not help
    │   ├── ContextTooLong    400  the prompt does not fit the model's window
    │   └── Unsupported       400  understood, and this model or server does not do it
    ├── Unauthorized          401  no key, or one that is not known
    ├── BudgetExceeded        402  a limit on money would be passed; nothing was spent
    ├── ApprovalNeeded        402  a person must allow it; `approval` is where that is asked
    ├── Forbidden             403  the key is known and may not do this
    │   └── PolicyDenied      403  a rule of this installation says no
    │       └── AnswerDenied  403  to what a model answered: it was paid for
    ├── NotFound              404
    │   └── ModelNotFound     404
    ├── Conflict              409  it changed meanwhile; look again
    ├── TooLarge              413
    ├── Overloaded            429  come back after `retry_after_s`
    │   └── RateLimited       429  a provider says so; nothing was done, safe to repeat
    ├── Cancelled             499  the caller went away
    ├── UpstreamError         502  the model answered, and wrongly
    │   ├── Refused           502  its provider forbids it, or does not know the model
    │   │   └── AccountRefused 502 it does not accept our key, or wants money
    │   └── AllPanelsFailed   502  no panelist answered
    ├── Unavailable           503  nothing reached the model; safe to repeat
    │   └── StoreUnavailable  503  our own database did not do what was asked
    └── DeadlineExceeded      504

A dialect turns one into its own shape at the door; inside, this is the only currency.
Instances cross process borders, so each must survive pickling: all state is in `__dict__`
and `args`.
"""

from __future__ import annotations

from typing import Any, ClassVar


class FusionError(Exception):
    """A failure with a status, a stable code and a sentence that tells the user what to do."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    #: Nothing was done that a repetition would do twice.
    safe_to_repeat: ClassVar[bool] = False
    #: The plan that it broke off, whose results are kept, if it did.
    plan: str = ""

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return (_revive, (type(self), self.message, self.param, self.retry_after_s))


def _revive(
    cls: type[FusionError], message: str, param: str | None, retry_after_s: float | None
) -> FusionError:
    return cls(message, param=param, retry_after_s=retry_after_s)


class BadRequest(FusionError):
    status, kind, code = 400, "invalid_request_error", "invalid_request"


class ContextTooLong(BadRequest):
    code = "context_length_exceeded"


class Unsupported(BadRequest):
    code = "unsupported"


class Unauthorized(FusionError):
    status, kind, code = 401, "authentication_error", "invalid_api_key"


class BudgetExceeded(FusionError):
    status, kind, code = 402, "insufficient_quota", "budget_exceeded"
    #: It is the cap of this very request, and not a limit that others share.
    is_cap = False

    @classmethod
    def of_cap(cls, message: str) -> BudgetExceeded:
        error = cls(message)
        error.is_cap = True
        return error


class Forbidden(FusionError):
    status, kind, code = 403, "permission_error", "forbidden"


class PolicyDenied(Forbidden):
    code = "policy_denied"


class AnswerDenied(PolicyDenied):
    """Nobody else is asked in its place: until one gets by, that would be a way around the rule."""

    code = "answer_denied"


class ApprovalNeeded(FusionError):
    """`approval` is the id of the durable record of what is asked."""

    status, kind, code = 402, "approval_required", "approval_required"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        approval: str = "",
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.approval = approval

    def __reduce__(self) -> tuple[Any, ...]:
        return (_revive, (type(self), self.message, self.param, self.retry_after_s), self.__dict__)


class NotFound(FusionError):
    status, kind, code = 404, "invalid_request_error", "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class Conflict(FusionError):
    status, kind, code = 409, "invalid_request_error", "conflict"


class TooLarge(FusionError):
    status, kind, code = 413, "invalid_request_error", "request_too_large"


class Overloaded(FusionError):
    status, kind, code = 429, "rate_limit_error", "overloaded"


class RateLimited(Overloaded):
    code = "rate_limited"
    safe_to_repeat = True


class Cancelled(FusionError):
    status, kind, code = 499, "invalid_request_error", "cancelled"


class UpstreamError(FusionError):
    status, kind, code = 502, "upstream_error", "upstream_error"


class Refused(UpstreamError):
    """No work was begun, so none is billed."""

    code = "provider_refused"


class AccountRefused(Refused):
    """Until somebody mends the account, every further call will end the same."""

    code = "account_refused"


class AllPanelsFailed(UpstreamError):
    code = "all_panels_failed"


class Unavailable(FusionError):
    status, kind, code = 503, "server_error", "unavailable"
    safe_to_repeat = True


class StoreUnavailable(Unavailable):
    """Down, locked, full. Nothing was changed. It says nothing about any model."""

    code = "store_unavailable"


class DeadlineExceeded(FusionError):
    status, kind, code = 504, "timeout_error", "deadline_exceeded"


#: After these nothing was begun, so nothing is billed.
UNPAID = (BadRequest, NotFound, Overloaded, Refused, TooLarge, Unavailable)
