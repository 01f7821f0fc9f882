"""YAML or JSON as plain data, with the line on which everything stands."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

#: Keys and indices from the top of the file: `("panels", "default", "members", 0)`.
Place = tuple[str | int, ...]
#: More places than this are no catalog. A few aliases of aliases make any number of them.
_MOST = 100_000
#: What JSON takes within its strings, and YAML nowhere.
_NO_YAML = yaml.reader.Reader.NON_PRINTABLE


class _Loader(yaml.SafeLoader):
    """Reads numbers as YAML 1.2 and JSON write them, too: for YAML 1.1 is 1e-6 text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


class _TooMuch(Exception):
    pass


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong. `line` counts from 1."""

    line: int
    message: str
    mend: str = ""

    def render(self, file: str) -> str:
        """`file:line: message — mend`, without a line break."""
        text = f"{file}:{self.line}: {self.message}" + (f" — {self.mend}" if self.mend else "")
        return " ".join(text.split())


@dataclass(slots=True)
class Document:
    """What a file says. `problems` are those of YAML itself; with `data` None, nothing is known."""

    data: Any = None
    problems: list[Problem] = field(default_factory=list)
    _lines: dict[Place, int] = field(default_factory=dict)
    _noted: int = 0

    def line(self, place: Place) -> int:
        """The line of this place, or of the nearest place above it that the file has."""
        while place and place not in self._lines:
            place = place[:-1]
        return self._lines.get(place, 1)

    def has(self, place: Place) -> bool:
        return place in self._lines

    def note(self, node: yaml.Node, place: Place, above: tuple[yaml.Node, ...]) -> bool:
        """Remember the lines of this node and all below it. False if it contains itself."""
        self._noted += 1
        if self._noted > _MOST:
            raise _TooMuch
        self._lines.setdefault(place, node.start_mark.line + 1)
        if any(node is one for one in above):
            self._problem(node, "refers to itself", "write it out")
            return False
        inside = (*above, node)
        if isinstance(node, yaml.SequenceNode):
            sound = [self.note(item, (*place, at), inside) for at, item in enumerate(node.value)]
            return all(sound)
        if isinstance(node, yaml.MappingNode):
            sound = [self._note_key(key, value, place, inside) for key, value in node.value]
            return all(sound)
        return True

    def _note_key(
        self, key: yaml.Node, value: yaml.Node, place: Place, above: tuple[yaml.Node, ...]
    ) -> bool:
        if not isinstance(key, yaml.ScalarNode):
            self._problem(key, "a key must be text", "use a plain word")
            return False
        if key.tag == "tag:yaml.org,2002:merge":
            return self.note(value, (*place, "<<"), above)
        if key.tag != "tag:yaml.org,2002:str":
            self._problem(
                key, f"'{key.value}' is not read as text", f"write '{key.value}' in quotes"
            )
        here = (*place, key.value)
        if here in self._lines:
            first = self._lines[here]
            self._problem(key, f"'{key.value}' stands twice (first on line {first})", "keep one")
            # The last one counts, as it does for YAML.
            depth = len(here)
            self._lines = {at: n for at, n in self._lines.items() if at[:depth] != here}
        self._lines[here] = key.start_mark.line + 1
        return self.note(value, here, above)

    def _problem(self, node: yaml.Node, message: str, mend: str) -> None:
        self.problems.append(Problem(node.start_mark.line + 1, message, mend))


def read(text: str, first: str = "models:") -> Document:
    """The document in this text, which begins for example with `first`.

    Never raises: what cannot be read is a problem.
    """
    document, data = Document(), _json(text)
    if data is not None:
        text = _NO_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\t", " "))
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            document.problems.append(Problem(1, "it must be a mapping", f"start with '{first}'"))
        elif document.note(root, (), ()):
            if data is None:
                data = _text_keys(loader.construct_document(root))
            document.data = data
    except (yaml.YAMLError, ValueError, TypeError) as error:
        document.problems.append(_not_yaml(error))
    except (RecursionError, _TooMuch):
        problem = Problem(1, "it says too much, or too deeply", "write it shorter")
        document.problems.append(problem)
    return document


def _json(text: str) -> Any:
    """None where it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _not_yaml(error: Exception) -> Problem:
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or str(error) or type(error).__name__
    line = mark.line + 1 if mark else 1
    return Problem(line, f"not YAML: {reason}", "look at this line and the one above")


def _text_keys(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _text_keys(value) for key, value in data.items()}
    return [_text_keys(item) for item in data] if isinstance(data, list) else data
