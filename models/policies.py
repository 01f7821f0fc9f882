"""What the catalog says about policies: rules that hold for every model alike.

`serve.control.policy` evaluates them, one file a kind.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from models.record import Record

#: What a limit counts over. A call outside any session or job counts for itself.
Scope = Literal["request", "session", "job", "key", "project"]
#: What happens where a rule is broken: the call is refused, or a person is asked.
Then = Literal["deny", "ask"]
_Dollars = Annotated[float, Field(gt=0, le=1_000_000_000)]


class _Policy(Record):
    """What every policy has."""

    #: Public ids of the keys that it is for. Default: everybody's.
    keys: tuple[str, ...] = ()
    #: Projects that it is for. Default: all.
    projects: tuple[str, ...] = ()


class Spend(_Policy):
    """A limit on money. Worst cases of calls under way count as spent until they end."""

    kind: Literal["spend"]
    limit_usd: _Dollars
    scope: Scope = "session"
    #: Dollars at which a person is asked on the way to the limit.
    ask_at_usd: tuple[_Dollars, ...] = ()
    then: Literal["deny", "ask", "downgrade"] = "ask"
    #: The cheaper model that answers from there on, with `then: downgrade`.
    downgrade_to: str | None = None

    @model_validator(mode="after")
    def _sound(self) -> Spend:
        if (self.then == "downgrade") != (self.downgrade_to is not None):
            raise ValueError("downgrade_to and 'then: downgrade' need each other")
        if any(step >= self.limit_usd for step in self.ask_at_usd):
            raise ValueError("each of ask_at_usd must be below limit_usd")
        return self


class WallTime(_Policy):
    """A limit on the time since the first request."""

    kind: Literal["time"]
    limit_s: float = Field(gt=0, le=31_536_000)
    scope: Scope = "session"
    then: Then = "ask"


class Rate(_Policy):
    """Requests a minute, with a burst, and requests at the same time."""

    kind: Literal["rate"]
    per_minute: float | None = Field(None, gt=0, le=1_000_000)
    #: Requests that may come at once before the rate holds. Default: one second's, at least 1.
    burst: int | None = Field(None, ge=1, le=1_000_000)
    concurrent: int | None = Field(None, ge=1, le=1_000_000)
    scope: Scope = "key"

    @model_validator(mode="after")
    def _something(self) -> Rate:
        if self.per_minute is None and self.concurrent is None:
            raise ValueError("set per_minute, concurrent, or both")
        return self


class Allow(_Policy):
    """Which models and tools may be used. Patterns may hold `*`."""

    kind: Literal["allow"]
    #: Concrete models. Default: all.
    models: tuple[str, ...] | None = None
    tools: tuple[str, ...] | None = None
    then: Then = "deny"


class Loop(_Policy):
    """Stops a model that calls the same tool with the same arguments again and again."""

    kind: Literal["loop"]
    #: The same call this many times in a row is a loop.
    repeats: int = Field(3, ge=2, le=1000)
    scope: Scope = "session"
    then: Then = "deny"


class ToolCalls(_Policy):
    """A limit on the number of tool calls."""

    kind: Literal["tool_calls"]
    limit: int = Field(ge=0, le=1_000_000)
    scope: Scope = "session"
    then: Then = "deny"


class Privacy(_Policy):
    """Personal data and secrets in prompts and tool results."""

    kind: Literal["privacy"]
    find: tuple[Literal["secrets", "email", "phone", "card", "iban"], ...] = (
        "secrets",
        "email",
        "phone",
        "card",
        "iban",
    )
    then: Literal["redact", "deny", "ask"] = "redact"
    #: Models that may see all: those that you host yourself, say. Patterns may hold `*`.
    trusted_models: tuple[str, ...] = ()


class Size(_Policy):
    """Limits on how long prompts and answers may be."""

    kind: Literal["size"]
    #: Characters of all messages together.
    max_prompt_chars: int | None = Field(None, ge=1)
    #: Tokens of an answer: a longer wish is cut to this.
    max_output_tokens: int | None = Field(None, ge=1)
    then: Then = "deny"


class Own(_Policy):
    """A Python function of yours. See `serve.control.policy.own`."""

    kind: Literal["python"]
    #: `module:function`, importable by the server.
    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    #: When it is asked.
    phases: tuple[Literal["request", "model_call", "tool_call", "tool_result", "response"], ...] = (
        "request",
    )
    #: Seconds after which it denies.
    timeout_s: float = Field(1.0, gt=0, le=30)


PolicySpec = Annotated[
    Spend | WallTime | Rate | Allow | Loop | ToolCalls | Privacy | Size | Own,
    Field(discriminator="kind"),
]


class Approvals(Record):
    """What happens when a person is asked."""

    #: Seconds until an approval that nobody decided expires.
    expires_s: float = Field(86_400.0, gt=0, le=31_536_000)
    #: Told of every approval that opens or closes, by a signed POST.
    webhook: str | None = Field(None, pattern=r"^https?://[^\s?#@]+$")
    #: The environment variable with the secret that signs it.
    webhook_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")

    @model_validator(mode="after")
    def _signed(self) -> Approvals:
        if (self.webhook is None) != (self.webhook_key_env is None):
            raise ValueError("webhook and webhook_key_env need each other")
        return self
