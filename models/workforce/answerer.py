"""The gateway's side of a workforce model: one handle, our messages, our errors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
)

from models import wire
from models.answerer import Clock, Events, SystemClock
from models.call import Call
from models.errors import (
    Cancelled,
    DeadlineExceeded,
    FusionError,
    Overloaded,
    Unavailable,
    UpstreamError,
)
from models.messages import Completion, Request
from models.scaling import FIRST
from models.workforce.pace import COUNT_S, Pace
from models.workforce.totals import ELSEWHERE
from models.workforce.turns import TICKET, Ticket
from models.wrappers.limit import answer_tokens, prompt_tokens

#: What a client is told to wait when every place is taken and nothing was answered yet.
RETRY_AFTER_S = 2.0

#: A word for each project, the same at every time.
Salt = Callable[[str], str]


class Workforce:
    """A hosted model as an `Answerer`. `handle` is Serve's handle of its deployment.

    `salt` gives each project a word of its own, with which the engine's prefix cache keeps
    projects apart: how fast a prompt is answered must not tell what others have asked. `pace` is
    that of the whole model where this is one place of it.
    """

    def __init__(
        self,
        name: str,
        handle: Any,
        clock: Clock | None = None,
        *,
        salt: Salt | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._name = name
        self._salt = salt
        self._whole = handle.options(method_name="ask")
        self._streamed = handle.options(method_name="ask_stream", stream=True)
        self._count = handle.options(method_name="count")
        self._clock = clock or SystemClock()
        self._pace = pace or Pace()
        #: Requests that went to another model since a replica was last told.
        self.missed = 0
        self._sent: dict[object, Any] = {}

    def is_waiting(self, task: object) -> bool:
        """Whether no replica has got what this task asks for, so that nothing of it is begun."""
        # Serve says so in no other way.
        chosen = getattr(self._sent.get(task), "_replica_result_future", None)
        return chosen is not None and (not chosen.done() or chosen.cancelled())

    async def complete(self, request: Request, call: Call) -> Completion:
        mine, task = self._ticket(request, call), asyncio.current_task()
        body = self._body(request, call, mine, stream=False)
        with self._told(body, task), self._paced(mine, task), ray_errors(self._name):
            async with asyncio.timeout(call.remaining_s(self._clock.now())):
                response = self._sent[task] = self._whole.remote(body)
                try:
                    answer = await response
                except BaseException:
                    # Serve does not take an abandoned request off the replica by itself.
                    response.cancel()
                    raise
        if answer.get("error"):
            raise wire.error(None, answer, model=self._name)
        return wire.completion(answer, model=self._name)

    def _ticket(self, request: Request, call: Call) -> Ticket:
        return ticket(request, call, self._clock.now())

    def _body(self, request: Request, call: Call, mine: Ticket, *, stream: bool) -> dict[str, Any]:
        body = wire.payload(request, model=self._name, stream=stream)
        body[TICKET] = tuple(mine)
        if self.missed:
            body[ELSEWHERE], self.missed = self.missed, 0
        return body if self._salt is None else body | {"cache_salt": self._salt(call.project)}

    async def stream(self, request: Request, call: Call) -> Events:
        deltas = wire.Deltas(self._name)
        mine, task = self._ticket(request, call), asyncio.current_task()
        body = self._body(request, call, mine, stream=True)
        with self._told(body, task), self._paced(mine, task), ray_errors(self._name):
            call.remaining_s(self._clock.now())
            response = self._sent[task] = self._streamed.remote(body)
            chunks = aiter(response)
            ended = False
            try:
                while True:
                    # The time limit stands around each wait and not around the yield, where
                    # it would cancel whichever task happens to read.
                    async with asyncio.timeout(call.remaining_s(self._clock.now())):
                        chunk = await anext(chunks, None)
                    if chunk is None:
                        break
                    for event in deltas.feed(chunk):
                        yield event
                ended = True
            finally:
                if not ended:
                    response.cancel()
        yield deltas.done()

    @contextmanager
    def _told(self, body: Mapping[str, Any], task: object) -> Iterator[None]:
        """The replica that gets this body hears what went elsewhere; where none does, the next."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, Overloaded | Unavailable) or self.is_waiting(task):
                self.missed += body.get(ELSEWHERE, 0)
            raise
        finally:
            self._sent.pop(task, None)

    @contextmanager
    def _paced(self, mine: Ticket, task: object) -> Iterator[None]:
        self._pace.began(mine, self._clock.now())
        try:
            yield
        except Overloaded as error:
            self._pace.refused(mine)
            error.retry_after_s = self._pace.retry_after_s(mine, RETRY_AFTER_S)
            raise
        except BaseException:
            if self.is_waiting(task):
                self._pace.refused(mine)
            else:
                self._pace.ended(mine, self._clock.now())
            raise
        self._pace.ended(mine, self._clock.now())

    def wait_s(self, request: Request, call: Call, places: float) -> float:
        """Seconds that one who comes now waits for one of so many places."""
        return self._pace.wait_s(self._ticket(request, call), places)

    def wakes(self, _: Call) -> str:
        """The place of the replica that a request would wake: there is one."""
        return FIRST

    def drained_s(self) -> float:
        """Seconds until all that is under way from here is through."""
        return self._pace.drained_s()

    async def count(
        self, request: Request, call: Call | None = None, *, within_s: float = COUNT_S
    ) -> int:
        """The tokens of what the model would read, by its own tokenizer. `call` is who asks."""
        body = wire.payload(request, model=self._name, stream=False)
        with ray_errors(self._name):
            async with asyncio.timeout(within_s):
                response = self._count.remote(body)
                try:
                    return int(await response)
                except BaseException:
                    response.cancel()  # as in `complete`
                    raise


def ticket(request: Request, call: Call, now_s: float) -> Ticket:
    """With what it waits for its turn. Who has no key stands for the project. Whoever has a
    deadline keeps half of its time for the answer."""
    prompt = float(prompt_tokens(request))
    came_s = now_s if call.came is None else call.came
    return Ticket(
        call.key or call.project,
        call.priority == "low",
        prompt + answer_tokens(request),
        prompt,
        came_s,
        math.inf if call.deadline is None else (call.deadline - came_s) / 2,
    )


@contextmanager
def ray_errors(name: str) -> Iterator[None]:
    """Raise what Ray and Serve raise as one of our errors that says what to do."""
    try:
        yield
    except FusionError as error:
        # A replica's own error arrives wrapped in Ray's; the caller gets it bare.
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, FusionError) else error) from None
    except BackPressureError:
        raise Overloaded(
            f"Model '{name}' has as many requests waiting as it takes. Try again later.",
            retry_after_s=RETRY_AFTER_S,
        ) from None
    except (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError) as error:
        raise Unavailable(
            f"A replica of model '{name}' went away ({type(error).__name__})."
        ) from None
    except TimeoutError:
        raise DeadlineExceeded(f"Model '{name}' did not answer within the deadline.") from None
    except RequestCancelledError:
        raise Cancelled(f"The call to model '{name}' was cancelled.") from None
    except RayTaskError as error:
        raise UpstreamError(f"Model '{name}' failed: {error.cause!r}") from None
    except (RayError, RayServeException) as error:
        raise Unavailable(f"Model '{name}' cannot be reached ({type(error).__name__}).") from None
