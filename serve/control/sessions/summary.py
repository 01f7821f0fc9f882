"""The oldest turns of a history in short, where it is too long for the next model."""

from __future__ import annotations

from collections.abc import Sequence

from models.answerer import Answerer
from models.call import Call
from models.catalog import Catalog
from models.messages import Message, Request, Sampling, system, user
from serve.control.sessions.store import History, Item

#: Characters of a token, taken low: a history that is cut too early is not lost.
CHARS_A_TOKEN = 3
#: Share of the window that the newest turns keep.
KEPT = 0.5
SUMMARY_TOKENS = 400
_ASK = (
    "Summarise this conversation for somebody who goes on with it: what is wanted, what was "
    "found and decided, names, numbers and open questions. Only the summary."
)


def tokens(messages: Sequence[Message]) -> int:
    """About how many these are."""
    chars = sum(
        len(message.text) + sum(len(call.arguments) for call in message.tool_calls) + 16
        for message in messages
    )
    return chars // CHARS_A_TOKEN


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
    spec = catalog.models[model]
    room = max(256, spec.context - min(SUMMARY_TOKENS, spec.max_output) - 200) * CHARS_A_TOKEN
    text, so_far = "\n".join(map(_told, oldest)), history.summary
    limit = min(SUMMARY_TOKENS, spec.max_output)
    while text:
        before = f"Summary so far:\n{so_far}\n\n" if so_far else ""
        share = max(500, room - len(before))
        piece, text = text[:share], text[share:]
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
