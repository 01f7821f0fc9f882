"""The figures of scaling: time of a decision for 50 models, dollars of every policy.

python tests/bench/scaling.py --trace TRACE.csv --profile PROFILE.yaml [--spot] [--spill] [--suite]

With --suite the same on that trace bent in several ways, and on made ones (`traces`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from traces import suite

from cluster.profile import Profile, read_profile
from cluster.scaling.budget import Budget, decide_all
from cluster.scaling.decision import ScalingState, Seen
from cluster.simulation.contenders import COMPARED, Ours, recovered, run_policy
from cluster.simulation.simulator import Setting, make_setting
from cluster.simulation.trace import make_trace, read_trace, rescale


def decision_times(profile: Profile, count: int = 50, looks: int = 600) -> list[float]:
    """Milliseconds of each of `looks` decisions for `count` models under one budget, once a
    second of a fake clock; every fifth look closes a bin of all forecasts at once."""
    one = Ours(make_setting(make_trace([(0, 1, 1)]), profile)).model
    models = [replace(one, name=f"model-{i}") for i in range(count)]
    states: dict[str, ScalingState] = {}
    took = []
    for second in range(looks):
        seen = {
            model.name: Seen(
                float(second),
                10,
                queued_requests=second % 7,
                queued_prompt_tokens=1000.0 * (second % 7),
                running_requests=50,
                arrived=12.0 * second,
                arrived_prompt_tokens=12_000.0 * second,
                answered=12.0 * second,
                generated_tokens=2_400.0 * second,
            )
            for model in models
        }
        start = time.perf_counter()
        decisions = decide_all(models, seen, states, Budget(usd_per_hour=Decimal(300)))
        took.append((time.perf_counter() - start) * 1000)
        states = {name: decision.state for name, decision in decisions.items()}
    return took


def compare(setting: Setting, names: tuple[str, ...]) -> None:
    """Print one line a policy, and what share of the dollars is recovered."""
    results = {}
    for name in names:
        start = time.perf_counter()
        result = results[name] = run_policy(name, setting)
        print(
            f"{name:14} ${result.dollars:8.2f}  in time {result.ttft_attainment:.4%}  "
            f"tpot {result.tpot_attainment:.2%}  p50 {result.ttft_p50_s:.2f} s  "
            f"p99 {result.ttft_p99_s:.2f} s  {result.replica_hours:.1f} replica-hours  "
            f"shed {result.shed}  spilled {result.spilled}  "
            f"({time.perf_counter() - start:.1f} s)  {result.settings or ''}",
            flush=True,
        )
    if set(COMPARED) <= set(results):
        share = recovered(*(results[name] for name in COMPARED))
        print("recovered:", "nothing between" if share is None else f"{share:.1%}")


def main() -> None:
    """Read the paths, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--policy", action="append")
    parser.add_argument("--spot", action="store_true")
    parser.add_argument("--spill", action="store_true")
    parser.add_argument("--suite", action="store_true")
    parser.add_argument("--only", action="append", help="of the suite, by name")
    given = parser.parse_args()
    profile = read_profile(given.profile)
    took = sorted(decision_times(profile))
    print(
        f"decision for 50 models: median {statistics.median(took):.2f} ms, "
        f"p99 {took[int(len(took) * 0.99)]:.2f} ms, worst {took[-1]:.2f} ms"
    )
    policies = tuple(given.policy or COMPARED)
    trace = read_trace(given.trace)
    if not given.suite and not given.only:
        compare(make_setting(trace, profile, spot=given.spot, spill=given.spill), policies)
        return
    for name, (bent, rate_scale) in suite(trace).items():
        if given.only and name not in given.only:
            continue
        print(f"\n{name}")
        busy = rescale(bent, rate_scale)
        compare(Setting(busy, profile, spot=given.spot, spill=given.spill), policies)


if __name__ == "__main__":
    main()
