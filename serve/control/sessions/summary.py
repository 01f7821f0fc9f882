"""The oldest turns of a history in short, where it is too long for the next model."""

from __future__ import annotations

from collections.abc import Sequence

from models.answerer import Answerer
from models.call import Call
from models.catalog import Catalog
from models.messages import Message, Request, Sampling, system, user
from serve.control.sessions.store import History, Item

#: ASCII bytes of a token, and others. Tokenizers differ: a third and a half are seldom too little
#: for words in any script, and a digit is often a token of its own. Too much costs a summary that
#: comes too early, too little a request that is tried again, shorter.
_ASCII, _OTHER = 3, 2
_DIGITS = b"0123456789"
_WIDE = bytes(range(128, 256))
#: Share of the window that the newest turns keep.
KEPT = 0.5
SUMMARY_TOKENS = 400
_ASK = (
    "Summarise this conversation for somebody who goes on with it: what is wanted, what was "
    "found and decided, names, numbers and open questions. Only the summary."
)


def tokens(messages: Sequence[Message]) -> int:
    """About how many these are."""
    return sum(
        _tokens(message.text) + sum(_tokens(call.arguments) for call in message.tool_calls) + 5
        for message in messages
    )


def _tokens(text: str) -> int:
    data = text.encode(errors="replace")
    plain = data.translate(None, _WIDE)
    digits = len(plain) - len(plain.translate(None, _DIGITS))
    return digits + (len(plain) - digits) // _ASCII + (len(data) - len(plain)) // _OTHER


def _head(text: str, room: int) -> str:
    """The beginning of a text that is about so many tokens."""
    head = text[: room * _ASCII]
    while (size := _tokens(head)) > room:
        head = head[: len(head) * room // size]
    return head


def most(catalog: Catalog) -> int:
    """Tokens that a summary may have."""
    return min(SUMMARY_TOKENS, catalog.models[catalog.reducer()].max_output)


def cut(items: Sequence[Item], budget: int) -> int:
    """How many of the oldest items to summarise, so that the rest fits about `budget` tokens.
    Cuts where a user begins, so that no tool's result loses its call; 0 where it cannot cut."""
    starts = [at for at, item in enumerate(items) if at and item.message.role == "user"]
    for at in starts:
        if tokens([item.message for item in items[at:]]) <= budget:
            return at
    return starts[-1] if starts else 0


async def summarised(
    history: History, oldest: Sequence[Item], catalog: Catalog, models: Answerer, call: Call
) -> tuple[str, str]:
    """The summary of what was in short already and of `oldest`, and the model that wrote it.

    Works through the text in pieces that fit the model's window, each with the summary so far.
    """
    model = catalog.reducer()
    limit = most(catalog)
    room = max(256, catalog.models[model].context - limit - 200)
    text, so_far = "\n".join(map(_told, oldest)), history.summary
    while text:
        before = f"Summary so far:\n{so_far}\n\n" if so_far else ""
        piece = _head(text, max(150, room - _tokens(before)))
        text = text[len(piece) :]
        request = Request(
            model,
            (system(_ASK), user(f"{before}Conversation:\n{piece}")),
            Sampling(max_tokens=limit, temperature=0.0),
        )
        so_far = (await models.complete(request, call.child("subtask"))).text.strip() or so_far
    return so_far, model


def _told(item: Item) -> str:
    called = "".join(f" [{call.name} {call.arguments}]" for call in item.message.tool_calls)
    return f"{item.message.role}: {item.message.text}{called}"
