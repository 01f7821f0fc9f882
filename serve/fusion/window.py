"""How much text fits a model, estimated without its tokenizer."""

from __future__ import annotations

#: Rather too many than too few: English has four characters a token, code and digits three;
#: beyond ASCII a token is about two bytes.
_ASCII_CHARACTERS_A_TOKEN = 3
_BYTES_A_TOKEN = 2
#: What a chat template and our own instructions take.
OVERHEAD = 512
#: The least that is worth reading of an answer.
LEAST = 64


def tokens(text: str) -> int:
    """About how many tokens this text is, for nearly every text an upper bound."""
    if text.isascii():
        return -(-len(text) // _ASCII_CHARACTERS_A_TOKEN)
    return -(-len(text.encode("utf-8", "replace")) // _BYTES_A_TOKEN)


def shares(wanted: list[int], room: int) -> list[int]:
    """Divide `room` fairly: what one does not need goes to those that need more.

    >>> shares([10, 100, 100], 90)
    [10, 40, 40]
    """
    given = [0] * len(wanted)
    left, waiting = room, sorted(range(len(wanted)), key=wanted.__getitem__)
    while waiting:
        index = waiting.pop(0)
        given[index] = min(wanted[index], left // (len(waiting) + 1))
        left -= given[index]
    return given
