"""What the door asks of whoever keeps conversations: the seam between dialects and sessions."""

from __future__ import annotations

from typing import Protocol

from models.messages import Completion, Message
from serve.access.caller import Caller


class Memory(Protocol):
    """Answers that later requests may go on from. `identity` is the answer's without its
    dialect's prefix (`resp_`)."""

    async def recall(self, identity: str, who: Caller) -> tuple[Message, ...]:
        """The conversation up to and with this answer. Raises NotFound, also where it is
        another project's."""
        ...

    async def keep(
        self, identity: str, conversation: tuple[Message, ...], answer: Completion, who: Caller
    ) -> None:
        """Remember this answer to this conversation (without the answer's own instructions)."""
        ...
