"""Each built-in policy and how verdicts add up, without a store or a model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from models.call import Call
from models.catalog import Catalog
from models.messages import (
    Completion,
    Message,
    Reasoning,
    Request,
    Sampling,
    Stage,
    Text,
    ToolCall,
    assistant,
    user,
)
from models.policies import PolicySpec
from models.prices import NANO_PER_USD
from serve.control.policed import worst
from serve.control.policy import findings
from serve.control.policy.catalog import rules
from serve.control.policy.engine import Ruling, evaluate
from serve.control.policy.own import OwnRule
from serve.control.policy.values import (
    ALLOW,
    PHASES,
    Add,
    Ceiling,
    Count,
    Decision,
    Event,
    Hold,
    Phase,
    Policy,
    Put,
    State,
    Verdict,
)

USD = NANO_PER_USD
CEILING = "p/session:ses_1#ceiling"
SPEC: TypeAdapter[Any] = TypeAdapter(PolicySpec)


def policy(name: str = "p", /, **spec: Any) -> Policy:
    (rule,) = rules({name: SPEC.validate_python(spec)})
    return rule.policy


def event(phase: Phase = "model_call", **fields: Any) -> Event:
    given: dict[str, Any] = {
        "at": 1000.0,
        "call": Call(id="req_1", session="ses_1", key="key_1"),
        "request": Request("m", (user("hello"),)),
        "model": "m",
    }
    return Event(phase, **{**given, **fields})


class Ledger:
    """Counters as the store keeps them, in memory."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.held: dict[tuple[str, str], int] = {}

    def state(self) -> State:
        held: dict[str, int] = {}
        for (_, counter), amount in self.held.items():
            held[counter] = held.get(counter, 0) + amount
        names = {*self.values, *held}
        return State({n: Count(self.values.get(n, 0), held.get(n, 0)) for n in names})

    def ask(self, *policies: Policy, event: Event) -> Ruling:
        ruling = evaluate(policies, event, self.state())
        for change in ruling.changes:
            match change:
                case Put(counter, value):
                    self.values[counter] = value
                case Add(counter, amount):
                    self.values[counter] = self.values.get(counter, 0) + amount
                case Hold(counter, amount):
                    self.held[event.call.id, counter] = amount
        return ruling

    def end(self, *policies: Policy, event: Event, nano_usd: int) -> None:
        stage = Stage("answer", "m", nano_usd=nano_usd)
        done = Completion("m", assistant("hi"), stages=(stage,))
        self.ask(*policies, event=replace(event, phase="response", completion=done))
        self.held = {key: amount for key, amount in self.held.items() if key[0] != event.call.id}


# How verdicts add up


class Says:
    """A policy that says what it is told to."""

    def __init__(self, name: str, says: object, counter: str | None = None) -> None:
        self.name = name
        self.says = says
        self.counter = counter or name

    phases: frozenset[Phase] = frozenset(PHASES)

    def counters(self, event: Event) -> tuple[str, ...]:
        return (self.counter,)

    def judge(self, event: Event, state: State) -> Verdict:
        if isinstance(self.says, Exception):
            raise self.says
        if self.says in get_args(Decision):
            changes = (Add(self.counter, 1),)
            return Verdict(self.says, f"{self.name} says so.", changes)  # type: ignore[arg-type]  # checked above
        return self.says  # type: ignore[return-value]  # nonsense is what is tested


def test_the_first_deny_wins_and_nobody_is_asked_after_it() -> None:
    ruling = evaluate(
        [Says("a", "ask"), Says("b", "deny"), Says("c", "deny")], event("request"), State()
    )
    assert ruling.decision == "deny"
    assert ruling.reason == "b says so."
    assert [said.policy for said in ruling.said] == ["a", "b"]


def test_asks_accumulate() -> None:
    ruling = evaluate(
        [Says("a", "ask"), Says("b", "allow"), Says("c", "ask")], event("request"), State()
    )
    assert ruling.decision == "ask"
    assert ruling.reason == "a says so. c says so."


def test_an_approved_ask_is_an_allow() -> None:
    asked = event("request", approved=frozenset({"a"}))
    ruling = evaluate([Says("a", "ask"), Says("b", "allow")], asked, State())
    assert ruling.decision == "allow"
    assert ruling.changes == (Add("a", 1), Add("b", 1))


@given(st.lists(st.sampled_from(["allow", "deny", "ask"]), max_size=6))
def test_state_changes_only_if_nobody_objects(says: list[str]) -> None:
    policies = [Says(str(at), said) for at, said in enumerate(says)]
    ruling = evaluate(policies, event("request"), State())
    assert ruling.decision == ("deny" if "deny" in says else "ask" if "ask" in says else "allow")
    assert len(ruling.changes) == (len(says) if ruling.decision == "allow" else 0)


def test_what_has_happened_is_counted_whoever_objects() -> None:
    ruling = evaluate([Says("a", "deny"), Says("b", "allow")], event("response"), State())
    assert (ruling.decision, len(ruling.changes)) == ("deny", 2)


@pytest.mark.parametrize("says", [ValueError("x"), None, True, Verdict("perhaps")])  # type: ignore[arg-type]
def test_a_policy_that_cannot_be_evaluated_denies(says: object) -> None:
    ruling = evaluate([Says("a", says)], event("request"), State())
    assert ruling.decision == "deny"
    assert "'a'" in ruling.reason


def test_each_policy_sees_what_the_one_before_made_of_the_request() -> None:
    shorter = policy("size", kind="size", max_output_tokens=5)
    shortest = policy("size2", kind="size", max_output_tokens=3)
    ruling = evaluate([shorter, shortest], event(), State())
    assert ruling.event.request.sampling.max_tokens == 3


# Money


def test_at_the_limit_a_person_is_asked() -> None:
    ledger, spend = Ledger(), policy(kind="spend", limit_usd=100)
    assert ledger.ask(spend, event=event(worst_nano_usd=100 * USD)).decision == "allow"
    ledger.end(spend, event=event(), nano_usd=99 * USD)
    ruling = ledger.ask(spend, event=event(worst_nano_usd=2 * USD))
    assert ruling.decision == "ask"
    assert "has spent 99 dollars, and 2 more may follow; it may spend 100" in ruling.reason
    assert ruling.objections[0].verdict.ceiling == Ceiling(CEILING, 200 * USD, "dollars", USD)


def test_a_new_ceiling_lets_it_go_on_up_to_there() -> None:
    ledger, spend = Ledger(), policy(kind="spend", limit_usd=100)
    ledger.values = {"p/session:ses_1": 100 * USD, "p/session:ses_1#ceiling": 120 * USD}
    assert ledger.ask(spend, event=event("request")).decision == "allow"
    assert ledger.ask(spend, event=event(worst_nano_usd=20 * USD)).decision == "allow"
    ledger.end(spend, event=event(), nano_usd=20 * USD)
    assert ledger.ask(spend, event=event("request")).decision == "ask"


def test_steps_on_the_way_are_asked_about_one_after_the_other() -> None:
    ledger, spend = Ledger(), policy(kind="spend", limit_usd=100, ask_at_usd=[80, 50])
    ledger.values = {"p/session:ses_1": 50 * USD}
    first = ledger.ask(spend, event=event("request")).objections[0].verdict
    assert first.ceiling == Ceiling(CEILING, 80 * USD, "dollars", USD)
    ledger.values |= {"p/session:ses_1#ceiling": 80 * USD}
    assert ledger.ask(spend, event=event("request")).decision == "allow"


def test_a_hard_stop_denies() -> None:
    ledger, spend = Ledger(), policy(kind="spend", limit_usd=1, then="deny")
    assert ledger.ask(spend, event=event(worst_nano_usd=2 * USD)).decision == "deny"
    ledger.values[CEILING] = 5 * USD  # whoever approved that
    assert ledger.ask(spend, event=event(worst_nano_usd=2 * USD)).decision == "deny"


def test_instead_of_a_stop_a_cheaper_model_answers() -> None:
    ledger = Ledger()
    spend = policy(kind="spend", limit_usd=1, then="downgrade", downgrade_to="small")
    ledger.values = {"p/session:ses_1": USD}
    assert ledger.ask(spend, event=event("request")).decision == "allow"
    ruling = ledger.ask(spend, event=event(worst_nano_usd=USD))
    assert (ruling.decision, ruling.event.model) == ("allow", "small")
    again = ledger.ask(spend, event=event(model="small", worst_nano_usd=1))
    assert again.decision == "allow"


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60)), max_size=30))
def test_calls_at_the_same_time_cannot_pass_a_hard_limit_together(
    calls: list[tuple[int, int]],
) -> None:
    ledger, spend = Ledger(), policy(kind="spend", limit_usd=100, then="deny")
    open_calls = []
    for at, (most, true) in enumerate(calls):
        one = event(call=Call(id=f"c{at}", session="s"), worst_nano_usd=most * USD)
        if ledger.ask(spend, event=one).decision == "allow":
            open_calls.append((one, min(true, most)))
        if at % 3 == 2 and open_calls:
            ended, cost = open_calls.pop(0)
            ledger.end(spend, event=ended, nano_usd=cost * USD)
    for ended, cost in open_calls:
        ledger.end(spend, event=ended, nano_usd=cost * USD)
    assert ledger.values.get("p/session:s", 0) <= 100 * USD
    assert not ledger.held


def test_what_has_no_price_is_within_no_limit() -> None:
    for then in ("deny", "ask"):
        limit = policy(kind="spend", limit_usd=1, then=then)
        ruling = evaluate([limit], event(worst_nano_usd=None), State())
        assert ruling.decision == "deny"
        assert "Set models.m.price" in ruling.reason
    cheaper = policy(kind="spend", limit_usd=1, then="downgrade", downgrade_to="m")
    assert evaluate([cheaper], event(worst_nano_usd=None), State()).decision == "allow"


def test_a_call_outside_a_session_counts_for_itself() -> None:
    ledger, spend = Ledger(), policy(kind="spend", limit_usd=1)
    alone = event(call=Call(id="req_9"), worst_nano_usd=USD)
    member = event(call=alone.call.child("panelist"), worst_nano_usd=USD)
    assert ledger.ask(spend, event=alone).decision == "allow"
    assert ledger.ask(spend, event=member).decision == "ask"


# Time, rate, lists, tools


def test_a_session_has_its_time() -> None:
    ledger, limit = Ledger(), policy(kind="time", limit_s=60)
    assert ledger.ask(limit, event=event("request", at=1000)).decision == "allow"
    assert ledger.ask(limit, event=event("request", at=1060)).decision == "allow"
    ruling = ledger.ask(limit, event=event("request", at=1061))
    assert ruling.decision == "ask"
    assert "61 seconds ago" in ruling.reason
    ceiling = ruling.objections[0].verdict.ceiling
    assert ceiling
    ledger.values[ceiling.counter] = ceiling.proposed
    assert ledger.ask(limit, event=event("request", at=1100)).decision == "allow"


def test_a_rate_holds_after_its_burst() -> None:
    ledger, limit = Ledger(), policy(kind="rate", per_minute=60, burst=3)
    said = [ledger.ask(limit, event=event("request")).decision for _ in range(4)]
    assert said == ["allow", "allow", "allow", "deny"]
    refused = ledger.ask(limit, event=event("request")).objections[0].verdict
    assert refused.retry_after_s == pytest.approx(1.0)
    assert ledger.ask(limit, event=event("request", at=1001)).decision == "allow"


@given(st.lists(st.floats(0, 20), max_size=60))
def test_never_more_than_the_rate_and_the_burst(gaps: list[float]) -> None:
    ledger, limit, at, passed = Ledger(), policy(kind="rate", per_minute=60, burst=5), 0.0, []
    for gap in gaps:
        at += gap
        if ledger.ask(limit, event=event("request", at=at)).decision == "allow":
            passed.append(at)
    for start in passed:
        inside = sum(start <= one <= start + 10 for one in passed)
        assert inside <= 10 + 5


def test_requests_at_the_same_time() -> None:
    ledger, limit = Ledger(), policy(kind="rate", concurrent=2)
    one, two, three = (event("request", call=Call(id=f"c{at}", key="k")) for at in range(3))
    assert ledger.ask(limit, event=one).decision == "allow"
    assert ledger.ask(limit, event=two).decision == "allow"
    assert ledger.ask(limit, event=three).decision == "deny"
    other = event("request", call=Call(id="c4", key="another"))
    assert ledger.ask(limit, event=other).decision == "allow"


def test_models_and_tools_by_name() -> None:
    rule = policy(kind="allow", models=["small*"], tools=["web_search"])
    for name, decision in (("small", "allow"), ("small-2", "allow"), ("large", "deny")):
        assert evaluate([rule], event(model=name), State()).decision == decision
    call = ToolCall("1", "shell", "{}")
    assert evaluate([rule], event("tool_call", tool=call), State()).decision == "deny"


def test_a_policy_may_be_for_some_keys_and_projects() -> None:
    specs = {"p": {"kind": "allow", "models": [], "keys": ["key_1"], "projects": ["default"]}}
    (rule,) = rules({name: SPEC.validate_python(spec) for name, spec in specs.items()})
    assert rule.concerns(event())
    assert not rule.concerns(event(call=Call(key="key_2")))
    assert not rule.concerns(event(call=Call(key="key_1", project="other")))
    assert not rule.concerns(event("response"))


def tool(arguments: str) -> Event:
    return event("tool_call", tool=ToolCall("1", "search", arguments))


def test_the_same_call_again_and_again_is_a_loop() -> None:
    ledger, loop = Ledger(), policy(kind="loop", repeats=3)
    calls = ['{"q": 1, "r": 2}', '{"r":2,"q":1}', '{"q": 3}', '{"q": 3}', '{"q": 3}']
    said = [ledger.ask(loop, event=tool(arguments)).decision for arguments in calls]
    assert said == ["allow", "allow", "allow", "allow", "deny"]


def test_a_loop_is_seen_in_the_history_that_a_client_brings() -> None:
    loop = policy(kind="loop", repeats=3)
    again = Message("assistant", tool_calls=(ToolCall("1", "search", "{}"),))
    history = (user("go"), again, Message("tool", tool_call_id="1"), again)
    asked = replace(tool("{}"), request=Request("m", history))
    assert evaluate([loop], asked, State()).decision == "deny"


def test_tool_calls_are_counted() -> None:
    ledger, limit = Ledger(), policy(kind="tool_calls", limit=2, then="ask")
    said = [ledger.ask(limit, event=tool("{}")).decision for _ in range(3)]
    assert said == ["allow", "allow", "ask"]


def test_long_prompts_are_refused_and_long_answers_cut() -> None:
    size = policy(kind="size", max_prompt_chars=10, max_output_tokens=7)
    long = event(request=Request("m", (user("x" * 11),)))
    assert evaluate([size], long, State()).decision == "deny"
    asked = event(request=Request("m", (user("x"),), Sampling(max_tokens=3)))
    assert evaluate([size], asked, State()).event.request.sampling.max_tokens == 3


# Privacy

SECRETS = {
    "secrets": "AKIAIOSFODNN7EXAMPLE",
    "email": "ada.lovelace@example.org",
    "phone": "+49 30 1234567",
    "card": "4111 1111 1111 1111",
    "iban": "DE89 3704 0044 0532 0130 00",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_what_is_private_is_taken_out(kind: str) -> None:
    secret = SECRETS[kind]
    text = f"My data: {secret} and so on, order 1234567890123."
    asked = event(request=Request("m", (user(text),)))
    ruling = evaluate([policy(kind="privacy")], asked, State())
    assert ruling.decision == "allow"
    assert ruling.event.request.messages[0].text == text.replace(secret, f"[{kind} removed]")
    assert secret not in repr(ruling.said[0].verdict.reason)


@pytest.mark.parametrize("then", ["deny", "ask"])
def test_or_refused_or_asked_about(then: str) -> None:
    asked = event(request=Request("m", (user(SECRETS["email"]),)))
    ruling = evaluate([policy(kind="privacy", then=then)], asked, State())
    assert ruling.decision == then
    assert "1 x email" in ruling.reason


def test_tool_results_and_arguments_are_looked_at_too() -> None:
    called = Message("assistant", tool_calls=(ToolCall("1", "f", f'"{SECRETS["iban"]}"'),))
    result = replace(user(SECRETS["secrets"]), role="tool", tool_call_id="1")
    asked = event(request=Request("m", (called, result)))
    clean = evaluate([policy(kind="privacy")], asked, State()).event.request.messages
    assert "DE89" not in clean[0].tool_calls[0].arguments
    assert "AKIA" not in clean[1].text


def test_a_trusted_model_may_see_all() -> None:
    asked = event(model="small", request=Request("m", (user(SECRETS["email"]),)))
    rule = policy(kind="privacy", then="deny", trusted_models=["small"])
    assert evaluate([rule], asked, State()).decision == "allow"


def test_a_private_key_goes_as_a_whole() -> None:
    kind = "RSA PRIVATE KEY"
    key = f"-----BEGIN {kind}-----\nMIIEow\nIBAAKC\n-----END {kind}-----"
    assert findings.redact(f"use {key}!", ("secrets",)) == "use [secrets removed]!"


@pytest.mark.parametrize(
    "text",
    [
        "In 1969 two men walked on the moon; 4111 of 5000 agreed.",
        "Call f(a@b) with 1,234,567 items, see RFC 2606 section 3.",
        "4111 1111 1111 1112",  # a card's digits with a wrong check
        "DE89 3704 0044 0532 0130 01",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert findings.redact(text, tuple(SECRETS)) == text


def test_hostile_text_takes_no_longer() -> None:
    for text in ("a." * 50_000, "@" * 50_000, "1 " * 50_000, "+1" * 50_000, "-" * 100_000):
        list(findings.find(text, tuple(SECRETS)))
    began = time.process_time()
    for text in ("http://" * 20_000, "eyJ" * 47_000):
        list(findings.find(text, ("secrets",)))
    assert time.process_time() - began < 5  # by the square of their lengths it was 18 s


@pytest.mark.parametrize("before", [0, 1999, 3990, 3999, 4000, 9_999])
def test_a_secret_is_found_wherever_it_stands_in_a_long_line(before: int) -> None:
    secret = "AKIA" + "ABCDEFGHIJKLMNOP"
    text = "x" * before + " " + secret + " " + "y" * 9000
    assert set(findings.find(text, ("secrets",))) == {("secrets", secret)}


# A user's own


def own(function: Any, timeout_s: float = 1.0) -> OwnRule:
    spec = SPEC.validate_python({"kind": "python", "function": "m:f", "timeout_s": timeout_s})
    return OwnRule("mine", spec, frozenset(("request",)), function)


@pytest.mark.parametrize(
    ("says", "decision"),
    [
        ("allow", "allow"),
        ("ask", "ask"),
        (Verdict("deny", "no"), "deny"),
        (ALLOW, "allow"),
        (None, "deny"),
        (True, "deny"),
        ("yes", "deny"),
        ([], "deny"),
        (Verdict("allow", None), "deny"),  # type: ignore[arg-type]
        (Verdict("ask", 5), "deny"),  # type: ignore[arg-type]
        (Verdict("allow", request="no"), "deny"),  # type: ignore[arg-type]
        (Verdict(["x"]), "deny"),  # type: ignore[arg-type]
    ],
)
async def test_a_function_of_the_users(says: object, decision: str) -> None:
    assert (await own(lambda _: says).ask(event())).decision == decision


async def test_what_a_function_says_can_be_written() -> None:
    said = await own(lambda _: Verdict("deny", "half \ud83d")).ask(event())
    assert said.reason.encode().startswith(b"half ")


async def test_a_function_that_raises_or_hangs_denies() -> None:
    def raises(_: Event) -> str:
        raise KeyError("x")

    def hangs(_: Event) -> str:
        import time

        time.sleep(0.2)
        return "allow"

    assert "KeyError" in (await own(raises).ask(event())).reason
    assert "longer than" in (await own(hangs, timeout_s=0.01).ask(event())).reason


async def test_a_function_cannot_change_the_counters_of_others() -> None:
    said = await own(lambda _: Verdict("allow", changes=(Put("p", 0),))).ask(event())
    assert said.changes == ()


def test_a_function_that_is_not_there_is_said_at_the_start() -> None:
    spec: Mapping[str, Any] = {"kind": "python", "function": "nowhere.at_all:f"}
    with pytest.raises(ValueError, match="policies"):
        rules({"mine": SPEC.validate_python(spec)})


@pytest.mark.parametrize("then", ["deny", "redact"])
def test_thoughts_are_read_too(then: str) -> None:
    thought = Message(
        "assistant", (Text("Hm."),), reasoning=(Reasoning("he is bob@example.com"), Reasoning("so"))
    )
    asked = event(request=Request("m", (user("hello"), thought)))
    verdict = policy(kind="privacy", find=["email"], then=then).judge(asked, State())
    if then == "deny":
        assert verdict.decision == "deny"
    else:
        assert verdict.request is not None
        assert verdict.request.messages[1].reasoning == (Reasoning("so"),)


def test_what_a_model_cannot_write_is_not_counted() -> None:
    model = {"engine": "openai", "max_output": 4096, "price": {"input": 1, "output": 10}}
    known = Catalog.model_validate({"models": {"m": model}, "roles": {"judge": "m"}})
    asked = Request("m", (user("hello"),))
    much = replace(asked, sampling=Sampling(max_tokens=1_000_000))
    assert worst(known, "m", much) == worst(known, "m", asked)


@pytest.mark.parametrize("unpriced", ["m", "other"])
def test_what_a_call_costs_is_unknown_where_anybody_who_may_answer_has_no_price(
    unpriced: str,
) -> None:
    price = {"price": {"input": 1, "output": 10}}
    models = {
        name: {"engine": "openai", **({} if name == unpriced else price)} for name in ("m", "other")
    }
    models["m"]["fallbacks"] = ["other"]
    known = Catalog.model_validate({"models": models, "roles": {"judge": "m"}})
    assert worst(known, "m", Request("m", (user("hello"),))) is None
