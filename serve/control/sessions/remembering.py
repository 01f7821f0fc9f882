"""A request within a session: its history goes before it, its turn is kept behind it.

A client sends only what is new. Leading instructions (system and developer messages) are the
request's own and not kept. The turn is in the store before the answer's last event goes out.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

from models.answerer import Answerer, Events, as_events
from models.call import Call
from models.catalog import Catalog
from models.errors import ContextTooLong
from models.messages import Completion, Done, Message, Request, user
from models.spec import ModelSpec
from serve.control.sessions import summary
from serve.control.sessions.carry import carried
from serve.control.sessions.store import History, Item, New, Sessions

#: Part of the room that a history gets once its reader has said that it was too long: what a text
#: is in tokens is only guessed.
_AGAIN = 0.5


class Remembering:
    """`inner` answers for every name; `models` for concrete models, to summarise with."""

    def __init__(
        self, inner: Answerer, catalog: Catalog, models: Answerer, sessions: Sessions
    ) -> None:
        self._inner = inner
        self._catalog = catalog
        self._models = models
        self._sessions = sessions

    async def complete(self, request: Request, call: Call) -> Completion:
        if call.session is None:
            return await self._inner.complete(request, call)
        if (known := await self._known(call)) is not None:
            return known
        whole = await self._whole(request, call)
        try:
            answer = await self._inner.complete(whole, call)
        except ContextTooLong:
            if (shorter := await self._whole(request, call, _AGAIN)) == whole:
                raise
            answer = await self._inner.complete(shorter, call)
        await self._keep(request, answer, call)
        return answer

    async def stream(self, request: Request, call: Call) -> Events:
        if call.session is None:
            async with aclosing(self._inner.stream(request, call)) as events:
                async for event in events:
                    yield event
            return
        if (known := await self._known(call)) is not None:
            for event in as_events(known):
                yield event
            return
        whole, said = await self._whole(request, call), False
        try:
            async with aclosing(self._kept(request, whole, call)) as events:
                async for event in events:
                    said = True
                    yield event
            return
        except ContextTooLong:
            if said or (shorter := await self._whole(request, call, _AGAIN)) == whole:
                raise
        async with aclosing(self._kept(request, shorter, call)) as events:
            async for event in events:
                yield event

    async def _kept(self, request: Request, whole: Request, call: Call) -> Events:
        async with aclosing(self._inner.stream(whole, call)) as events:
            async for event in events:
                if isinstance(event, Done):
                    await self._keep(request, event.completion, call)
                yield event

    async def _known(self, call: Call) -> Completion | None:
        """The answer of this very call, if it was kept already before a process died."""
        assert call.session is not None
        if not _comes_again(call):
            return None
        return await self._sessions.answered(call.session, call.project, _turn(call))

    async def _whole(self, request: Request, call: Call, part: float = 1.0) -> Request:
        """The request with its history, in short where that takes more than `part` of the room
        that the reader's window has for it."""
        assert call.session is not None
        history = await self._sessions.history(call.session, call.project)
        own, new = _split(request.messages)
        before = self._before(request, history)
        spec = self._reader(request)
        if spec is not None:
            answer = min(request.sampling.max_tokens or spec.max_output, spec.max_output)
            window = int((spec.context - answer - summary.tokens((*own, *new))) * part)
            # Where a summary does not fit either, it would only be paid for.
            budget = min(int(window * summary.KEPT), window - summary.most(self._catalog))
            if budget > 0 and summary.tokens(before) > window:
                history = await self._shortened(history, budget, call)
                before = self._before(request, history)
        return replace(request, messages=(*own, *before, *new))

    def _before(self, request: Request, history: History) -> tuple[Message, ...]:
        """The history as the next model can take it."""
        model = self._writer(request.model)
        spec = None if model is None else self._catalog.models[model]
        told = carried(
            history.items,
            model=model,
            tools=spec is None or spec.tools,
            images=spec is None or spec.images,
        )
        if not history.summary:
            return told
        return (user(f"[Summary of our conversation so far]\n{history.summary}"), *told)

    def _writer(self, name: str) -> str | None:
        """The concrete model that reads the history, as far as it is known before."""
        target = self._catalog.resolve(name)
        if target is None or target.kind in ("auto", "plan"):
            return None
        return target.name if target.kind == "model" else self._catalog.writer_of(target.name)

    def _reader(self, request: Request) -> ModelSpec | None:
        """The model whose window must hold the history."""
        catalog, roles = self._catalog, self._catalog.roles
        target = catalog.resolve(request.model)
        if target is None:
            return None
        if target.kind == "auto":
            # It chooses among those whose windows are large enough.
            able = [one for one in catalog.models.values() if one.tools >= bool(request.tools)]
            return max(able, key=lambda one: one.context, default=None)
        if target.kind == "plan":
            names = (roles.plan or roles.judge, roles.synthesis or roles.judge)
            read = [catalog.models[catalog.model_behind(name)] for name in names]
            return min(read, key=lambda one: one.context)
        writer = self._writer(request.model)
        return None if writer is None else catalog.models[writer]

    async def _shortened(self, history: History, budget: int, call: Call) -> History:
        assert call.session is not None
        items: tuple[Item, ...] = history.items
        at = summary.cut(items, budget)
        if not at:
            return history
        text, model = await summary.summarised(
            history, items[:at], self._catalog, self._models, call
        )
        upto = items[at - 1].position
        await self._sessions.summarise(call.session, upto, text, model)
        return History(items[at:], text, upto)

    async def _keep(self, request: Request, answer: Completion, call: Call) -> None:
        assert call.session is not None
        _, new = _split(request.messages)
        turn = [New(message) for message in new]
        turn.append(New(answer.message, answer.model, answer))
        keep = self._sessions.keep if _comes_again(call) else self._sessions.append
        await keep(call.session, call.project, turn, _turn(call))


def _comes_again(call: Call) -> bool:
    """Whether the same call may come twice: a parked one goes on after a crash, and a client
    repeats what it named by a key."""
    return call.resumed or call.idempotency_key is not None


def _turn(call: Call) -> str:
    key = call.idempotency_key
    return call.id if key is None else f"key {key}"


def _split(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """Leading instructions, and the rest."""
    at = 0
    while at < len(messages) and messages[at].role in ("system", "developer"):
        at += 1
    return messages[:at], messages[at:]
