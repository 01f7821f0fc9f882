"""A user's own Python class as a model: an agent, another library's client, a rule."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from models.answerer import Clock, Events, SystemClock, as_events
from models.call import Call
from models.errors import DeadlineExceeded, FusionError, UpstreamError
from models.loose import clean, cleaned
from models.messages import (
    Completion,
    Done,
    Event,
    Message,
    Progress,
    ReasoningDelta,
    Request,
    Text,
    TextDelta,
    ToolCallDelta,
    assistant,
)
from models.spec import PythonModel

T = TypeVar("T")
#: What they may give us, which nobody has checked: a wrong one would fail far from here.
_SHAPES: Mapping[type, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind)
    for kind in (Completion, TextDelta, ReasoningDelta, ToolCallDelta, Progress)
}
_END = object()


class Custom:
    """The class that `target` names, as an `Answerer`.

    It has `async def complete(request, call)`, which returns a Completion or a text, or
    `async def stream(request, call)`, which yields events or texts, or both; what it lacks is made
    of what it has. Made once, of the entry's `options`, when it is first asked: an import may take
    seconds, and what it needs is there only where it runs. Whatever it raises that is none of our
    errors is an UpstreamError.
    """

    def __init__(self, name: str, spec: PythonModel, clock: Clock | None = None) -> None:
        self._name = name
        self._spec = spec
        self._clock = clock or SystemClock()
        self._making: asyncio.Task[Any] | None = None

    def __repr__(self) -> str:
        return f"Custom({self._name!r}, {self._spec.target!r})"

    async def complete(self, request: Request, call: Call) -> Completion:
        window = self._window(call)
        theirs = await self._theirs(window)
        if not hasattr(theirs, "complete"):
            async with aclosing(self._streamed(theirs, request, call, window)) as events:
                async for event in events:
                    if isinstance(event, Done):
                        return event.completion
        answer = await window.wait(theirs.complete(request, call))
        return self._completion(answer)

    async def stream(self, request: Request, call: Call) -> Events:
        window = self._window(call)
        theirs = await self._theirs(window)
        if hasattr(theirs, "stream"):
            async with aclosing(self._streamed(theirs, request, call, window)) as events:
                async for event in events:
                    yield event
            return
        completion = self._completion(await window.wait(theirs.complete(request, call)))
        for event in as_events(completion):
            yield event

    async def _streamed(
        self, theirs: Any, request: Request, call: Call, window: _Window
    ) -> AsyncGenerator[Event, None]:
        """Their events up to the end, which is made of what came before where they give none."""
        said: list[str] = []
        async with aclosing(theirs.stream(request, call)) as given:
            while (item := await window.wait(anext(given, _END))) is not _END:
                event = self._event(item)
                if isinstance(event, Done):
                    yield event
                    return
                if isinstance(event, TextDelta):
                    said.append(event.text)
                yield event
        yield Done(Completion(self._name, assistant("".join(said))))

    def _event(self, item: Any) -> Event:
        if isinstance(item, str):
            return TextDelta(clean(item))
        if isinstance(item, Done):
            return Done(self._completion(item.completion))
        if not isinstance(item, Event):
            raise self._wrong(f"yields a {type(item).__name__}, not an event or a text")
        event: Event = self._sound(item)
        return event

    def _completion(self, answer: Any) -> Completion:
        if isinstance(answer, str):
            text = clean(answer)
            return Completion(self._name, Message("assistant", (Text(text),) if text else ()))
        if isinstance(answer, Completion):
            completion: Completion = self._sound(answer, model=self._name)
            return completion
        raise self._wrong(f"returns a {type(answer).__name__}, not a Completion or a text")

    def _sound(self, given: Any, **ours: Any) -> Any:
        """The same value with everything in it of the type that it should be, and clean."""
        kind = next(kind for kind in _SHAPES if isinstance(given, kind))
        try:
            return _SHAPES[kind].validate_python(cleaned({**asdict(given), **ours}))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            wrong = f"gives a {kind.__name__} whose {place} is wrong: {first['msg']}"
        except Exception as error:
            # Values that cannot be copied.
            raise self.failed(error) from error
        raise self._wrong(wrong)

    async def _theirs(self, window: _Window) -> Any:
        """Their object, made once however many ask: who has no time left to wait leaves it to the
        next one."""
        making = self._making
        if making is None or (making.done() and (making.cancelled() or making.exception())):
            making = self._making = asyncio.create_task(asyncio.to_thread(self._make))
        return await window.wait(asyncio.shield(making))

    def _make(self) -> Any:
        try:
            return self._found()
        except SystemExit as error:
            # In a task of its own it would end the event loop, and so the gateway.
            raise self.failed(error) from None

    def _found(self) -> Any:
        """Their object. Their folder comes last on the path, so that no module of it hides one of
        ours or of a library."""
        folder = self._spec.path
        if folder is not None and folder not in sys.path:
            sys.path.append(folder)
        module, _, name = self._spec.target.partition(":")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        made = found(**self._spec.options)
        self._check(made)
        return made

    def _check(self, made: Any) -> None:
        complete, stream = (getattr(made, name, None) for name in ("complete", "stream"))
        if complete is None and stream is None:
            raise self._wrong("has neither complete nor stream")
        if complete is not None and not inspect.iscoroutinefunction(complete):
            raise self._wrong("has a complete that is not 'async def': it would stop all others")
        if stream is not None and not inspect.isasyncgenfunction(stream):
            raise self._wrong("has a stream that is not 'async def' with 'yield'")

    def _wrong(self, what: str) -> UpstreamError:
        return UpstreamError(f"The class {self._spec.target} of model '{self._name}' {what}.")

    def _window(self, call: Call) -> _Window:
        left = call.remaining_s(self._clock.now())
        limit = self._spec.timeout_s
        return _Window(self, limit if left is None else min(left, limit))

    def failed(self, error: BaseException) -> UpstreamError:
        return UpstreamError(
            f"The class {self._spec.target} of model '{self._name}' failed"
            f" ({type(error).__name__}): {error}"[:2000]
        )

    @property
    def name(self) -> str:
        return self._name


class _Window:
    """The time that one call has, around single awaits and never around a `yield`."""

    def __init__(self, model: Custom, seconds: float) -> None:
        self._model = model
        self._seconds = seconds
        self._ends = asyncio.get_running_loop().time() + seconds

    async def wait(self, awaitable: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout_at(self._ends) as limit:
                return await awaitable
        except FusionError:
            raise
        except TimeoutError as error:
            if not limit.expired():
                raise self._model.failed(error) from error
            raise DeadlineExceeded(
                f"Model '{self._model.name}' did not answer within {self._seconds:.1f} s."
            ) from None
        except (Exception, SystemExit) as error:
            raise self._model.failed(error) from error
