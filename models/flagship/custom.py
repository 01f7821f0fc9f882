"""A user's own Python class as a model: an agent, another library's client, a rule."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from models.answerer import Clock, Events, SystemClock, as_events
from models.call import Call
from models.errors import DeadlineExceeded, FusionError, UpstreamError
from models.loose import clean
from models.messages import (
    Completion,
    Done,
    Event,
    Message,
    Request,
    Text,
    TextDelta,
    assistant,
)
from models.spec import PythonModel

T = TypeVar("T")


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
        self._made: Any = None
        self._making = asyncio.Lock()

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
            while (item := await window.wait(anext(given, None))) is not None:
                event = TextDelta(clean(item)) if isinstance(item, str) else item
                if isinstance(event, Done):
                    yield Done(self._completion(event.completion))
                    return
                if not isinstance(event, Event):
                    raise self._wrong(f"yields a {type(item).__name__}, not an event or a text")
                if isinstance(event, TextDelta):
                    said.append(event.text)
                yield event
        yield Done(Completion(self._name, assistant("".join(said))))

    def _completion(self, answer: Any) -> Completion:
        if isinstance(answer, str):
            text = clean(answer)
            return Completion(self._name, Message("assistant", (Text(text),) if text else ()))
        if isinstance(answer, Completion):
            return replace(answer, model=self._name)
        raise self._wrong(f"returns a {type(answer).__name__}, not a Completion or a text")

    async def _theirs(self, window: _Window) -> Any:
        async with self._making:
            if self._made is None:
                self._made = await window.wait(asyncio.to_thread(self._make))
            return self._made

    def _make(self) -> Any:
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

    def failed(self, error: Exception) -> UpstreamError:
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
        except Exception as error:
            raise self._model.failed(error) from error
