"""Personal data and secrets do not leave in prompts: redacted, refused, or asked about."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from models.messages import Image, Message, Text
from models.policies import Privacy
from serve.control.policy import findings
from serve.control.policy.allow import matches
from serve.control.policy.values import ALLOW, Event, Phase, State, Verdict


@dataclass(frozen=True, slots=True)
class PrivacyRule:
    """Looks at what each model is about to read, so also at tool results and personas."""

    name: str
    spec: Privacy
    phases: frozenset[Phase] = frozenset(("model_call",))

    def counters(self, event: Event) -> tuple[str, ...]:
        return ()

    def judge(self, event: Event, state: State) -> Verdict:
        if matches(event.model, self.spec.trusted_models):
            return ALLOW
        found = Counter(
            kind
            for message in event.request.messages
            for text in _texts(message)
            for kind, _ in findings.find(text, self.spec.find)
        )
        if not found:
            return ALLOW
        what = ", ".join(f"{number} x {kind}" for kind, number in sorted(found.items()))
        if self.spec.then != "redact":
            return Verdict(self.spec.then, f"Policy '{self.name}': the prompt holds {what}.")
        clean = tuple(self._redacted(message) for message in event.request.messages)
        return Verdict("allow", f"Removed {what}.", request=replace(event.request, messages=clean))

    def _redacted(self, message: Message) -> Message:
        def clean(text: str) -> str:
            return findings.redact(text, self.spec.find)

        return replace(
            message,
            content=tuple(
                part if isinstance(part, Image) else replace(part, text=clean(part.text))
                for part in message.content
            ),
            tool_calls=tuple(
                replace(tool, arguments=clean(tool.arguments)) for tool in message.tool_calls
            ),
            # A thought that is changed breaks its seal, so it goes as a whole.
            reasoning=tuple(one for one in message.reasoning if clean(one.text) == one.text),
        )


def _texts(message: Message) -> list[str]:
    texts = [part.text for part in message.content if isinstance(part, Text)]
    thoughts = [thought.text for thought in message.reasoning]
    return [*texts, *thoughts, *(tool.arguments for tool in message.tool_calls)]
