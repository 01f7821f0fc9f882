"""THE scaling decision: how many replicas of a model there should be, and why.

`decide` is a pure function: settings, what is seen now, and the state that the last decision
returned go in; a Decision with the next state comes out. Serve's wrapper (`policy`), the
simulator and `fusion status --scaling` all call it. The steps, in order:

1. load     what arrived since the last look, as replica-seconds of work: prompt tokens over
            the measured prefill rate, generated tokens over the measured full-batch rate.
2. ahead    the load one start-up time from now (`forecast`), because nothing ordered now
            serves before; and the standard error of that, from the forecaster's own past.
3. margin   how many standard errors above the forecast to stand. Where requests can spill,
            the newsvendor's share: the chance that a replica is needed at which it just pays
            against remote calls, 1 - own price / remote price of the same work. Where they
            cannot, the least that would have reached the attainment until now (`hindsight`),
            stricter while more was really late than may be.
4. surge    what arrives now, where that is three standard errors above the forecast: the load
            has jumped. And what waits now and will not have been served by then, to be worked
            off within a start-up time more: it is late whatever is done, and delays nobody else
            (`models.workforce.turns`).
5. prompts  at least so many replicas that a prompt finds one that is not taking in another
            (Erlang's C formula): it matters for small fleets.
6. hold     give a surge up within start-up times, and all else slowly, a twentieth of the fleet
            a start-up time: what was needed a while ago may be needed again, and comes back only
            a start-up time after it is missed. Where requests can spill nobody is late
            meanwhile, and dropping a replica and starting it again costs no more than keeping
            it for about a start-up time (the ski-rental rule: at most twice the cost of
            hindsight).
7. idle     to zero once staying warm has cost as much as a cold start would (start-up plus
            the late answers it causes), or, while more was late than may be, many times as much;
            back as soon as anything waits.
8. bounds   the model's own, and what the budget pays for (`budget.share`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist
from typing import Any
from zlib import crc32

from cluster.scaling import forecast as forecasting
from cluster.scaling.forecast import BINS_PER_HORIZON, Forecast
from cluster.scaling.hindsight import Hindsight, margin_for, meet
from cluster.scaling.placement import after_orders, place, spot_spares
from cluster.scaling.values import Decision, ModelScaling, ScalingState, ScalingTargets, Seen

__all__ = ["CAUSES", "Decision", "ModelScaling", "ScalingState", "ScalingTargets", "Seen", "decide"]

_NORMAL = NormalDist()
_HOUR_S = 3600.0
# From this part of the allowed late requests on they are saved, at most down to half of the
# share: what a burst without warning has cost cannot be saved up by any fleet.
_SAVE_FROM = 0.7
_SAVE_DOWN_TO = 0.5
_LATE_MEMORY_HORIZONS = 60.0
# Start-up times in which a fleet that is not needed shrinks to 1 / e of itself.
_SHRINK_HORIZONS = 20.0
# How busy a well-sized replica is, for what its batch can still absorb.
_BUSY = 0.85
# Cold starts that staying warm may cost while more was late than may be: about an hour for most
# models, so that one that is asked a few times an hour stays warm, and one at night rests.
_LATE_PATIENCE = 20.0
# Replicas that start serve half of the next start-up time in the mean.
_STARTING_COUNTS = 0.5

# What a decision is due to: a word for metrics, and the words of a person.
Reasons = list[tuple[str, str]]
CAUSES = (
    "jump",
    "backlog",
    "prompts",
    "slow down",
    "asked",
    "kept warm",
    "idle",
    "bounds",
    "budget",
)


def decide(model: ModelScaling, seen: Seen, state: ScalingState) -> Decision:
    """How many replicas `model` should have now. See the module's text for the rule."""
    offer = model.offers[0]
    # A machine's clock may be set back; what was learned stays where it is until it has caught up.
    if seen.now_s < state.held_s:
        seen = replace(seen, now_s=state.held_s)
    state = _learn(model, seen, state)
    assert state.forecast is not None
    ahead, margin = state.ahead, state.margin
    waiting_s = _work_s(model, state, seen.queued_requests, seen.queued_prompt_tokens)
    wanted, steady, reasons = _needed(model, seen, state, ahead, waiting_s, margin)
    wanted, changes = _hold(model, seen, state, wanted, steady, reasons)
    wanted = _idle(model, seen, state, wanted, reasons)
    if wanted == 0:
        # Nothing is held of a fleet that rests.
        changes |= {"held": 0.0, "surge": 0.0}
    bounded = min(max(wanted, model.min_replicas), model.max_replicas)
    if bounded != wanted:
        reasons.append(("bounds", f"bounds {model.min_replicas}..{model.max_replicas}"))
    health = after_orders(state.health, model.offers, seen.oldest_order_s, seen.now_s)
    # One copy for all: copies are what a decision spends its time on.
    state = replace(state, **changes, health=health)
    placement = place(
        bounded,
        model.offers,
        health,
        seen.now_s,
        model.on_demand_floor,
        seen.patient,
        model.min_replicas,
    )
    backlog_s = waiting_s / seen.replicas if seen.replicas else (math.inf if waiting_s else 0.0)
    why = (
        f"{bounded} replicas: load {ahead.present:.1f}, in {offer.startup_s:.0f} s "
        f"{ahead.expected:.1f} ± {ahead.error:.1f}, margin {margin:.2f}; "
        f"{'; '.join(words for _, words in reasons)}; {placement.why}"
    )
    return Decision(
        model.name,
        bounded,
        placement,
        backlog_s,
        ahead.present,
        ahead.expected,
        ahead.error,
        margin,
        why,
        state,
        tuple(cause for cause, _ in reasons),
    )


def _learn(model: ModelScaling, seen: Seen, state: ScalingState) -> ScalingState:
    """Step 1: the next state's means and forecast from what is new since the last look."""
    rates, before = model.offers[0].rates, state.seen
    if before is None or state.forecast is None:
        prompt, generated = model.expected_tokens
        started = forecasting.start(seen.now_s, model.offers[0].startup_s, _phase(model.name))
        return replace(
            state,
            seen=seen,
            idle_since_s=seen.now_s,
            forecast=started,
            # What serves already was wanted by somebody.
            held=float(seen.replicas + seen.starting),
            held_s=seen.now_s,
            prompt_tokens=prompt,
            generated_tokens=generated,
        )
    arrived = max(0.0, seen.arrived - before.arrived)
    prompts = max(0.0, seen.arrived_prompt_tokens - before.arrived_prompt_tokens)
    answered = max(0.0, seen.answered - before.answered)
    generated = max(0.0, seen.generated_tokens - before.generated_tokens)
    judged = max(0.0, seen.first_tokens - before.first_tokens)
    late = max(0.0, seen.late - before.late)
    # Means over about the last thousand requests.
    keep_arrived, keep_answered = 0.999**arrived, 0.999**answered
    generated_mean = state.generated_tokens
    if answered:
        generated_mean = keep_answered * generated_mean + (1 - keep_answered) * generated / answered
    prompt_mean = state.prompt_tokens
    if arrived:
        prompt_mean = keep_arrived * prompt_mean + (1 - keep_arrived) * prompts / arrived
    work_s = prompts / rates.prefill_tokens_per_s
    # What was answered is known to the token, what came and is not yet answered is guessed.
    tokens = generated + (arrived - answered) * generated_mean
    work_s = max(0.0, work_s + tokens * rates.seconds_per_generated_token())
    # A queue forms only once the batches are full, which takes about one residence in a full
    # batch.
    residence_s = prompt_mean / rates.prefill_tokens_per_s
    residence_s += generated_mean * rates.step_s(rates.max_batch)
    before_bins = state.forecast.bins
    fade = math.exp(-(seen.now_s - before.now_s) / (_LATE_MEMORY_HORIZONS * _horizon_s(model)))
    total = fade * state.judged + judged
    share = state.late_share + (
        (late / judged - state.late_share) * judged / total if judged else 0
    )
    after = forecasting.observe(state.forecast, seen.now_s, work_s, residence_s)
    hindsight, ahead, margin = state.hindsight, state.ahead, state.margin
    if after.bins != before_bins:
        state = replace(state, prompt_tokens=prompt_mean, generated_tokens=generated_mean)
        ahead = forecasting.forecast(after)
        hindsight = meet(
            hindsight,
            after.last_load,
            after.bin_s * min(after.bins - before_bins, BINS_PER_HORIZON),
            ahead,
            math.exp(-1 / (_shrink_horizons(model) * BINS_PER_HORIZON)),
            _absorb_s(model, state),
        )
        margin = _margin(model, state, hindsight, ahead)
    busy = arrived > 0 or seen.queued_requests > 0 or seen.running_requests > 0
    idle_since_s, busy_load = state.idle_since_s, state.busy_load
    if busy:
        each_s = rates.work_s(prompt_mean, generated_mean)
        idle_since_s = seen.now_s
        busy_load = (after.means[-1] if after.means else 0.0) / each_s
    return replace(
        state,
        seen=seen,
        prompt_tokens=prompt_mean,
        generated_tokens=generated_mean,
        idle_since_s=idle_since_s,
        busy_load=busy_load,
        forecast=after,
        hindsight=hindsight,
        ahead=ahead,
        margin=margin,
        late_share=share,
        judged=total,
    )


def _phase(name: str) -> float:
    return (crc32(name.encode()) % BINS_PER_HORIZON) / BINS_PER_HORIZON


def _work_s(model: ModelScaling, state: ScalingState, requests: float, prompts: float) -> float:
    rates = model.offers[0].rates
    return rates.work_s(prompts, requests * state.generated_tokens)


def _margin(
    model: ModelScaling,
    state: ScalingState,
    hindsight: Hindsight,
    ahead: Forecast,
) -> float:
    """Step 3: standard errors to stand above the forecast."""
    if model.remote is not None:
        offer, remote = model.offers[0], model.remote
        call = (
            state.prompt_tokens * float(remote.usd_per_million_input)
            + state.generated_tokens * float(remote.usd_per_million_output)
        ) / 1e6
        own = offer.usd_per_request(state.prompt_tokens, state.generated_tokens)
        return _NORMAL.inv_cdf(min(max(1 - own / max(call, 1e-12), 0.01), 0.99))
    may_be_late = 1 - model.targets.attainment
    used = state.late_share / may_be_late / _SAVE_FROM
    return margin_for(
        hindsight, ahead.expected, may_be_late * max(_SAVE_DOWN_TO, min(1, 1 / max(used, 1e-9)))
    )


def _busy_batch(model: ModelScaling, state: ScalingState) -> float:
    """Running sequences of a replica at the share `_BUSY` of its capacity.

    Tokens a second in the time that prefill leaves:
    batch = rate * (step_base + step_per_sequence * batch).
    """
    rates = model.offers[0].rates
    work_s = rates.work_s(state.prompt_tokens, state.generated_tokens)
    prompt_s = state.prompt_tokens / rates.prefill_tokens_per_s
    rate = _BUSY / work_s * state.generated_tokens / (1 - _BUSY / work_s * prompt_s)
    batch = rate * rates.step_base_s / max(1 - rate * rates.step_per_sequence_s, 1e-9)
    return min(batch, float(rates.max_batch))


def _decode_s(model: ModelScaling, state: ScalingState) -> float:
    """Seconds of work left in a running sequence: half of its decoding in the mean."""
    return model.offers[0].rates.work_s(0, state.generated_tokens) / 2


def _absorb_s(model: ModelScaling, state: ScalingState) -> float:
    """Seconds of backlog before anybody is late: what a busy replica's batch can still take in
    without a queue, and the wait that the target allows."""
    rates = model.offers[0].rates
    free = rates.max_batch - _busy_batch(model, state)
    prompt_s = state.prompt_tokens / rates.prefill_tokens_per_s
    wait_s = max(0.0, model.targets.ttft_s - 2 * prompt_s)
    return max(free * _decode_s(model, state) + wait_s, 1e-3)


def _filling_s(model: ModelScaling, seen: Seen, state: ScalingState) -> float:
    """Seconds of work by which the batches are more than half-way from busy to full: a backlog
    that has not become a queue yet."""
    half = (_busy_batch(model, state) + model.offers[0].rates.max_batch) / 2
    return max(0.0, seen.running_requests - seen.replicas * half) * _decode_s(model, state)


def _needed(
    model: ModelScaling,
    seen: Seen,
    state: ScalingState,
    ahead: Forecast,
    waiting_s: float,
    margin: float,
) -> tuple[int, float, Reasons]:
    """Steps 2 to 5: replicas for all of it, those of them that are no surge, to the fraction, and
    reasons."""
    offer = model.offers[0]
    horizon_s = max(offer.startup_s, 1.0)
    spares = spot_spares(ahead.expected, offer) if offer.spot else 0.0
    load = ahead.expected + spares + margin * math.sqrt(ahead.error**2 + spares)
    calm = load = max(load, 0.0)
    reasons: Reasons = []
    if ahead.alarm > load:
        load = ahead.alarm
        reasons.append(("jump", f"a jump to {load:.1f} that was not expected"))
    waiting_s += _filling_s(model, seen, state)
    serving = seen.replicas + _STARTING_COUNTS * seen.starting
    left_s = waiting_s - (serving - max(ahead.expected, ahead.alarm)) * horizon_s
    if waiting_s > 0 and left_s > 0:
        load += left_s / horizon_s
        reasons.append(("backlog", f"backlog of {waiting_s:.0f} s of work"))
    needed = math.ceil(load - 1e-9)
    for_prompts = _for_prompts(model, state, ahead.expected, needed)
    whole = math.ceil(calm - 1e-9)
    steady = _for_prompts(model, state, ahead.expected, whole)
    if for_prompts > needed:
        reasons.append(("prompts", f"{for_prompts} so that prompts need not queue"))
    return max(needed, for_prompts), calm if steady == whole else steady, reasons


def _for_prompts(model: ModelScaling, state: ScalingState, load: float, least: int) -> int:
    """Step 5, from the load in replicas."""
    rates = model.offers[0].rates
    work_s = rates.work_s(state.prompt_tokens, state.generated_tokens)
    own_s = state.prompt_tokens / rates.prefill_tokens_per_s
    prompt_s = own_s + rates.step_s(rates.max_batch)
    if work_s <= 0:
        return least
    slack_s = model.targets.ttft_s - prompt_s
    late = 1 - model.targets.attainment
    return replicas_for_prompts(load / work_s * prompt_s, prompt_s, slack_s, late, least)


def replicas_for_prompts(
    load: float, prompt_s: float, slack_s: float, late_share: float, least: int
) -> int:
    """Replicas, at least `least`, so that at most `late_share` of prompts wait over `slack_s`.

    load: prompts being taken in at once, in the mean; prompt_s: seconds to take in one. The
    wait in M/M/c: P(W > t) = C(c, load) exp(-(c - load) t / prompt_s), C by Erlang.
    """
    if load <= 0:
        return least
    count = max(least, math.floor(load) + 1)
    blocked = 1.0  # Erlang B by its recursion
    for n in range(1, count):
        blocked = load * blocked / (n + load * blocked)
    while True:
        blocked = load * blocked / (count + load * blocked)
        waits = blocked / (1 - load / count * (1 - blocked))
        if waits * math.exp(-(count - load) * max(slack_s, 0.0) / prompt_s) <= late_share:
            return count
        if count > 4 * load + 16:
            return count
        count += 1


def _horizon_s(model: ModelScaling) -> float:
    return max(model.offers[0].startup_s, 1.0)


def _shrink_horizons(model: ModelScaling) -> float:
    return 1.0 if model.remote is not None else _SHRINK_HORIZONS


def _hold(
    model: ModelScaling,
    seen: Seen,
    state: ScalingState,
    wanted: int,
    steady: float,
    reasons: Reasons,
) -> tuple[int, dict[str, Any]]:
    """Step 6: what was wanted before, less what may be given up since then; and what of the state
    changes."""
    horizon_s = _horizon_s(model)
    passed_s = seen.now_s - state.held_s
    kept = state.held * math.exp(-passed_s / (_shrink_horizons(model) * horizon_s))
    # To the fraction: a fleet that is held at what was rounded up keeps a replica too many.
    held = max(float(steady), kept)
    # A surge stays for one start-up time, so that nothing is called off before it serves, and
    # then goes as fast.
    over_s = max(0.0, seen.now_s - state.surge_s - horizon_s)
    surge, surge_s = state.surge, state.surge_s
    if wanted >= surge * math.exp(-over_s / horizon_s):
        surge, surge_s, over_s = float(wanted), seen.now_s, 0.0
    count = math.ceil(max(held, surge * math.exp(-over_s / horizon_s)) - 1e-9)
    if count > wanted:
        reasons.append(("slow down", f"going down slowly, {wanted} would do"))
    return count, {"held": held, "held_s": seen.now_s, "surge": surge, "surge_s": surge_s}


def _idle(
    model: ModelScaling,
    seen: Seen,
    state: ScalingState,
    wanted: int,
    reasons: Reasons,
) -> int:
    """Step 7: one replica is kept while idle as long as it costs less than a cold start."""
    offer = model.offers[0]
    waiting = seen.queued_requests > 0 or seen.running_requests > 0
    if state.idle_since_s == seen.now_s:
        if waiting and wanted == 0:
            reasons.append(("asked", "back from zero"))
        return max(1, wanted) if waiting else wanted
    price_s = float(offer.usd_per_hour) / _HOUR_S
    late = max(1.0, state.busy_load * offer.startup_s)
    cold_usd = offer.startup_s * price_s + late * model.late_usd
    if state.late_share > 1 - model.targets.attainment:
        cold_usd *= _LATE_PATIENCE
    idle_s = seen.now_s - state.idle_since_s
    if idle_s * price_s >= cold_usd:
        reasons.append(("idle", "idle for longer than a cold start is worth: zero"))
        return 0
    if wanted <= 1 and seen.replicas + seen.starting > 0:
        words = f"kept warm: a cold start is worth ${cold_usd:.2f}, idling so far costs less"
        reasons.append(("kept warm", words))
        return 1
    return wanted
