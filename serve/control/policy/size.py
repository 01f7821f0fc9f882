"""Limits on how long prompts and answers may be."""

from __future__ import annotations

from dataclasses import dataclass, replace

from models.messages import Image
from models.policies import Size
from serve.control.policy.values import ALLOW, Event, Phase, State, Verdict


@dataclass(frozen=True, slots=True)
class SizeLimit:
    name: str
    spec: Size
    phases: frozenset[Phase] = frozenset(("model_call",))

    def counters(self, event: Event) -> tuple[str, ...]:
        return ()

    def judge(self, event: Event, state: State) -> Verdict:
        longest, chars = self.spec.max_prompt_chars, _chars(event)
        if longest is not None and chars > longest:
            return Verdict(
                self.spec.then,
                f"Policy '{self.name}': the prompt has {chars} characters; {longest} are allowed.",
            )
        most, sampling = self.spec.max_output_tokens, event.request.sampling
        if most is None or (sampling.max_tokens is not None and sampling.max_tokens <= most):
            return ALLOW
        shorter = replace(event.request, sampling=replace(sampling, max_tokens=most))
        return Verdict("allow", f"Cut to {most} tokens of output.", request=shorter)


def _chars(event: Event) -> int:
    """Everything that the model reads: texts, images' addresses, thoughts, earlier calls."""
    return sum(
        sum(len(part.url if isinstance(part, Image) else part.text) for part in message.content)
        + sum(len(tool.arguments) for tool in message.tool_calls)
        + sum(len(thought.text) for thought in message.reasoning)
        for message in event.request.messages
    )
