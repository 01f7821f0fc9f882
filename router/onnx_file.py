"""An ONNX file that ends earlier: its graph up to one state, and nothing of what comes after.

Such a file is a protobuf message of numbered fields. Five of the numbers are needed here, and no
library that knows them all.
"""

from __future__ import annotations

from collections.abc import Iterator

_GRAPH, _NODE, _OUTPUT = 7, 1, 12
_NODE_OUTPUT, _NAME = 2, 1
_VARINT, _LONG, _BYTES, _SHORT = 0, 1, 2, 5


def ending_at(model: bytes, state: str) -> bytes:
    """The file with the graph's nodes up to the one that makes `state`, its only output.

    Nodes stand in the order in which they are computed. Raises ValueError where none makes it.
    """
    return b"".join(
        _field(_GRAPH, _shortened(value, state.encode())) if number == _GRAPH else whole
        for number, whole, value in _fields(model)
    )


def _shortened(graph: bytes, state: bytes) -> bytes:
    kept, there = [], False
    for number, whole, value in _fields(graph):
        if number == _OUTPUT or (number == _NODE and there):
            continue
        if number == _NODE:
            there = any(n == _NODE_OUTPUT and made == state for n, _, made in _fields(value))
        kept.append(whole)
    if not there:
        raise ValueError(f"nothing in the ONNX file makes {state.decode()}")
    return b"".join([*kept, _field(_OUTPUT, _field(_NAME, state))])


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, all bytes and content of each field of a message."""
    place = 0
    while place < len(message):
        start = place
        key, place = _number(message, place)
        kind = key & 7
        if kind == _VARINT:
            first, (_, place) = place, _number(message, place)
        elif kind in (_LONG, _SHORT):
            first, place = place, place + (8 if kind == _LONG else 4)
        elif kind == _BYTES:
            length, first = _number(message, place)
            place = first + length
        else:
            raise ValueError("not an ONNX file")
        yield key >> 3, message[start:place], message[first:place]


def _number(message: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place behind it."""
    value = shift = 0
    while True:
        octet = message[place]
        place += 1
        value |= (octet & 127) << shift
        shift += 7
        if octet < 128:
            return value, place


def _field(number: int, content: bytes) -> bytes:
    return _written(number << 3 | _BYTES) + _written(len(content)) + content


def _written(value: int) -> bytes:
    octets = []
    while value > 127:
        octets.append(value & 127 | 128)
        value >>= 7
    return bytes([*octets, value])
