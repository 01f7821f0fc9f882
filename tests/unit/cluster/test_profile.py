"""The profile file: read strictly, refused with the field's name."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import FitError, ProfileError
from cluster.profile import parse_profile, read_profile


def test_a_profile_file_becomes_a_node_type_and_rates(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(yaml.safe_dump(content))
    profile = read_profile(path)
    assert profile.node_type().usd_per_hour == Decimal("0.8")
    assert profile.rates().step_s(8) == pytest.approx(0.0522)
    remote = profile.remote_price()
    assert remote is not None
    assert remote.ttft_s == 0.6


@pytest.mark.parametrize(
    ("section", "key", "value", "says"),
    [
        ("node", "usd_per_hour", 0, "node.usd_per_hour"),
        ("node", "usd_per_hour", "cheap", "node.usd_per_hour"),
        ("node", "startup", 3, "node.startup"),
        ("replica", "prefill_tokens_per_s", "fast", "replica.prefill_tokens_per_s"),
        ("replica", "prefill_tokens_per_s", "inf", "replica.prefill_tokens_per_s"),
        ("replica", "prefill_tokens_per_s", -1, "replica.prefill_tokens_per_s"),
        ("targets", "attainment", 1.0, "targets.attainment"),
        ("trace", "rate_scale", 0, "trace.rate_scale"),
    ],
)
def test_a_wrong_field_is_named(
    content: dict[str, Any], section: str, key: str, value: object, says: str
) -> None:
    content.setdefault(section, {})[key] = value
    with pytest.raises(ProfileError, match=says):
        parse_profile(content)


def test_numbers_that_yaml_takes_for_words_are_numbers(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    path = tmp_path / "profile.yaml"
    text = yaml.safe_dump(content).replace("0.0009", "9e-4").replace("0.8", "8e-1")
    path.write_text(text)
    profile = read_profile(path)
    assert profile.rates().step_per_sequence_s == 0.0009
    assert profile.node_type().usd_per_hour == Decimal("0.8")


@pytest.mark.parametrize(
    ("node", "replica", "says"),
    [
        (
            {"accelerator_memory_gib": 24},
            {"weights_gib": 16, "kv_cache_gib": 10},
            r"accelerator memory: needs 26\.0 GiB .* has 24\.0, missing 2\.0",
        ),
        ({"host_memory_gib": 8}, {"host_gib": 9}, r"host memory: .* missing 1\.0"),
        ({"accelerators": 2}, {"tensor_parallel": 4}, "needs 4 accelerators, has 2"),
    ],
)
def test_a_replica_that_its_node_does_not_hold_says_which_memory_is_missing(
    content: dict[str, Any], node: dict[str, Any], replica: dict[str, Any], says: str
) -> None:
    content["replica"].update(replica)
    if "tensor_parallel" not in replica:
        parse_profile(content)  # nothing is known of its node's memory: it is enough
    content["node"].update(node)
    with pytest.raises(FitError, match=f"model the file fits no node type: node: {says}"):
        parse_profile(content, "the file")
    content["replica"].update(dict.fromkeys(replica, 1))
    parse_profile(content)


def test_a_missing_price_is_named(content: dict[str, Any]) -> None:
    del content["node"]["usd_per_hour"]
    with pytest.raises(ProfileError, match=r"node\.usd_per_hour: Field required"):
        parse_profile(content)


def test_no_mapping_no_yaml_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="must be a YAML mapping"):
        parse_profile([])
    broken = tmp_path / "broken.yaml"
    broken.write_text("node: [")
    with pytest.raises(ProfileError, match="no YAML at line"):
        read_profile(broken)
    with pytest.raises(ProfileError, match="cannot read"):
        read_profile(tmp_path / "none.yaml")


def test_remote_and_spot_may_be_left_out(content: dict[str, Any]) -> None:
    del content["remote"], content["node"]["spot"]
    profile = parse_profile(content)
    assert profile.remote_price() is None
    assert profile.node_type().spot is None
