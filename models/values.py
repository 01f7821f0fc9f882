"""Values that never change, and what they would be with some fields changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

__all__ = ["changed", "value"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(*, slots: bool = False, eq: bool = True) -> Callable[[type[T]], type[T]]:
    """A frozen dataclass, for what is made with every call to a model.

    That nobody changes it the type checker sees. Python's own `frozen=True` looks at run time, and
    pays for that where it is made: each field goes through `object.__setattr__`, which took a
    fifth of all that a fusion costs.
    """
    return dataclass(slots=slots, eq=eq, unsafe_hash=eq)


if TYPE_CHECKING:
    # The type checker knows what this one takes.
    from dataclasses import replace as changed
else:

    def changed(value: Any, **changes: Any) -> Any:
        """A copy of a value with these fields changed, quickly where its class has no slots.

        `dataclasses.replace` goes through `__init__` again, field by field, and took a fifth of
        all that a fusion costs. So the classes that each call changes have no slots (messages,
        of which a session holds thousands, have), and none that is changed here has a
        `__post_init__` or keeps what it has worked out.
        """
        if not hasattr(value, "__dict__"):
            return type(value)(**{name: getattr(value, name) for name in value.__slots__} | changes)
        fields = value.__dict__ | changes
        copy = object.__new__(type(value))
        copy.__dict__ = fields
        return copy
