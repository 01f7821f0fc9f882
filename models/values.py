"""Values that never change, and what they would be with some fields changed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # The type checker knows what this one takes.
    changed = replace
else:

    def changed(value: Any, **changes: Any) -> Any:
        """A copy of a frozen dataclass with these fields changed, quickly where it has no slots.

        `dataclasses.replace` goes through `__init__` again, field by field, and took a fifth of
        all that a fusion costs. So the classes that each call changes have no slots (messages,
        of which a session holds thousands, have), and none that is changed here has a
        `__post_init__` or keeps what it has worked out.
        """
        fields = getattr(value, "__dict__", None)
        if fields is None:
            return replace(value, **changes)
        copy = object.__new__(type(value))
        object.__setattr__(copy, "__dict__", fields | changes)  # it is frozen
        return copy
