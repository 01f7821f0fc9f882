"""Prometheus texts of several nodes as one."""

from __future__ import annotations

from serve.gateway.metrics import merge

ONE = """\
# HELP ray_fusion_requests_total Requests.
# TYPE ray_fusion_requests_total counter
ray_fusion_requests_total{node="1"} 3.0
# HELP ray_object_store_memory Noise.
# TYPE ray_object_store_memory gauge
ray_object_store_memory{node="1"} 9.0
# HELP ray_fusion_request_seconds Seconds.
# TYPE ray_fusion_request_seconds histogram
ray_fusion_request_seconds_bucket{node="1",le="+Inf"} 3.0
ray_fusion_request_seconds_count{node="1"} 3.0
"""


def test_a_familys_head_stands_once_and_its_samples_together() -> None:
    merged = merge([ONE, ONE.replace('"1"', '"2"')]).splitlines()
    assert merged == [
        "# HELP ray_fusion_requests_total Requests.",
        "# TYPE ray_fusion_requests_total counter",
        'ray_fusion_requests_total{node="1"} 3.0',
        'ray_fusion_requests_total{node="2"} 3.0',
        "# HELP ray_fusion_request_seconds Seconds.",
        "# TYPE ray_fusion_request_seconds histogram",
        'ray_fusion_request_seconds_bucket{node="1",le="+Inf"} 3.0',
        'ray_fusion_request_seconds_count{node="1"} 3.0',
        'ray_fusion_request_seconds_bucket{node="2",le="+Inf"} 3.0',
        'ray_fusion_request_seconds_count{node="2"} 3.0',
    ]


def test_nothing_gives_nothing() -> None:
    assert merge([]) == ""
