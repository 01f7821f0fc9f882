"""A user's own policy: a Python function that the catalog names.

    def no_poems(event: Event) -> Verdict | str:
        return "deny" if "poem" in event.request.messages[-1].text else "allow"

It runs in a thread of its own with a time limit. What it raises, what is no verdict, and silence
deny.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from models.loose import clean
from models.messages import Request
from models.policies import Own
from serve.control.policy.values import Event, Phase, State, Verdict

#: Functions that hang keep their thread. When all hang, the rule denies, as it should.
THREADS = 8
_pool = ThreadPoolExecutor(THREADS, thread_name_prefix="own-policy")


@dataclass(frozen=True, slots=True)
class OwnRule:
    name: str
    spec: Own
    phases: frozenset[Phase]
    function: Callable[[Event], Any] = field(compare=False)

    def counters(self, event: Event) -> tuple[str, ...]:
        return ()

    async def ask(self, event: Event) -> Verdict:
        """What the function says, within its time."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.spec.timeout_s):
                return self._read(await loop.run_in_executor(_pool, self.function, event))
        except TimeoutError:
            seconds = self.spec.timeout_s
            return Verdict("deny", f"Policy '{self.name}' took longer than {seconds:g} seconds.")
        except Exception as error:
            return Verdict("deny", f"Policy '{self.name}' failed ({type(error).__name__}).")

    def judge(self, event: Event, state: State) -> Verdict:
        return self._read(self.function(event))

    def _read(self, said: Any) -> Verdict:
        if isinstance(said, Verdict) and _is_one(said):
            # The counters are the built-in policies'; a stranger's change could undo them.
            return Verdict(said.decision, clean(said.reason), request=said.request)
        if said in ("allow", "deny", "ask"):
            return Verdict(said, "" if said == "allow" else f"Policy '{self.name}' says {said}.")
        return Verdict("deny", f"Policy '{self.name}' gave no verdict.")


def _is_one(said: Verdict) -> bool:
    """Whether a stranger's verdict holds what one holds."""
    return (
        said.decision in ("allow", "deny", "ask")
        and isinstance(said.reason, str)
        and (said.request is None or isinstance(said.request, Request))
    )


@dataclass(frozen=True, slots=True)
class Decided:
    """A policy that was asked already."""

    name: str
    phases: frozenset[Phase]
    verdict: Verdict

    def counters(self, event: Event) -> tuple[str, ...]:
        return ()

    def judge(self, event: Event, state: State) -> Verdict:
        return self.verdict


def load(name: str, spec: Own) -> OwnRule:
    """Raises ValueError, with the mend, where there is no such function."""
    module, _, attribute = spec.function.partition(":")
    try:
        function = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"policies.{name}.function: '{spec.function}' cannot be imported ({error}); "
            "install its package beside the server"
        ) from None
    return OwnRule(name, spec, frozenset(spec.phases), function)
