"""What `infra` ships: valid by the schemas of who reads it, and without what must not be there."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kuberay import KINDS
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
INFRA = ROOT / "infra"
KUBERNETES = "1.33"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((INFRA / "kuberay" / name).read_text()))


MANIFESTS = [
    pytest.param(document, id=f"{path.stem}:{document['kind']}")
    for path in sorted((INFRA / "kuberay").glob("*.yaml"))
    if path.name != "catalog.yaml"
    for document in documents(path.name)
]


def check(document: dict[str, Any]) -> None:
    """Raises ValidationError. Pods and services inside are checked as Kubernetes checks them."""
    schema = KINDS.get(document["kind"])
    if schema is None:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    jsonschema.validate(document, schema)
    for template in pod_templates(document):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    if service := document["spec"].get("serveService"):
        whole = {"apiVersion": "v1", "kind": "Service", **service}
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)


def pod_templates(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "template":
                yield inner
            else:
                yield from pod_templates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pod_templates(inner)


@pytest.mark.parametrize("document", MANIFESTS)
def test_a_manifest_is_valid(document: dict[str, Any]) -> None:
    check(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rayClusterConfig.autoscalerOptions.version", "v3"),
        ("rayClusterConfig.workerGroupSpec", []),
        ("rayClusterConfig.headGroupSpec.template.spec.containers.0.imagee", "x"),
        ("rayClusterConfig.headGroupSpec.template.spec.containers.0.resources.limits", "much"),
        ("serveService.spec.ports.0.port", "eighty"),
    ],
)
def test_the_validator_finds_mistakes(path: str, value: Any) -> None:
    document = documents("rayservice.yaml")[0]
    *way, last = path.split(".")
    place: Any = document["spec"]
    for step in way:
        place = place[int(step)] if step.isdigit() else place[step]
    place[last] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(document)


@pytest.mark.parametrize("document", MANIFESTS)
def test_pods_are_locked_down(document: dict[str, Any]) -> None:
    for template in pod_templates(document):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            assert not container["image"].endswith(":latest")


@pytest.mark.parametrize("name", ["rayservice.yaml", "rayjob.yaml"])
def test_rays_own_api_asks_for_its_token(name: str) -> None:
    spec = documents(name)[0]["spec"]
    cluster = spec.get("rayClusterConfig") or spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_gpu_workers_come_from_zero_on_both_markets() -> None:
    cluster = documents("rayservice.yaml")[0]["spec"]["rayClusterConfig"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    for group in cluster["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == 0
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == "1"
    markets = [group["labels"]["market"] for group in cluster["workerGroupSpecs"]]
    assert markets == ["on-demand", "spot"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_serving_survives_its_head_and_serves_our_application() -> None:
    from ray.serve.schema import ServeDeploySchema

    from models.catalog import Catalog
    from models.spec import VllmModel
    from serve.applications import applications
    from serve.settings import Settings

    spec = documents("rayservice.yaml")[0]["spec"]
    assert "gcsFaultToleranceOptions" in spec["rayClusterConfig"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    catalog = Catalog.model_validate(yaml.safe_load((INFRA / "kuberay/catalog.yaml").read_text()))
    wanted = applications(Settings.of({"catalog": catalog.model_dump(mode="json")}), catalog)
    assert [one.name for one in config.applications] == [one["name"] for one in wanted]
    door, *models = config.applications
    assert Settings.of(door.args).catalog == catalog
    for one in models:
        assert VllmModel.model_validate(one.args["spec"]) == catalog.models[one.args["name"]]


def test_the_launcher_file_is_valid_by_rays_own_check() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config
    from ray.autoscaler.sdk import get_docker_host_mount_location

    config = yaml.safe_load((INFRA / "aws.yaml").read_text())
    validate_config(prepare_config(config))
    kinds = config["available_node_types"]
    assert "GPU" not in kinds["head"]["resources"] or kinds["head"]["resources"]["GPU"] == 0
    market = {name: kind["labels"]["market"] for name, kind in kinds.items()}
    assert market == {"head": "on-demand", "l4-on-demand": "on-demand", "l4-spot": "spot"}
    assert all(kinds[name]["min_workers"] == 0 for name in kinds if name != "head")
    assert "RAY_enable_autoscaler_v2=1" in config["head_start_ray_commands"][1]
    assert all(
        "RAY_AUTH_MODE=token" in config[f"{node}_start_ray_commands"][1]
        for node in ("head", "worker")
    )
    # Where the launcher lays a mounted file on a host with Docker.
    mounted = get_docker_host_mount_location(config["cluster_name"])
    [target] = config["file_mounts"]
    assert f"--env-file {mounted}{target}" in config["docker"]["run_options"]
    open_ports = [
        rule["FromPort"] for rule in config["provider"]["security_group"]["IpPermissions"]
    ]
    assert open_ports == [22]
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(config | {"max_worker": 3}))


def test_the_image_has_no_root_and_pins_what_it_starts_from() -> None:
    lines = (ROOT / "Containerfile").read_text().splitlines()
    froms = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert all(re.search(r":\d+\.\d+\.\d+", name) for name in froms if name != "base")
    assert {line.split()[-1] for line in lines if line.startswith("FROM ")} >= {"cpu", "gpu"}
    for target in ("cpu", "gpu"):
        users = [line for line in _stages(lines)[target] if line.startswith("USER ")]
        assert users[-1] == "USER fusion"


def test_the_image_for_gpus_has_the_compiler_that_triton_calls() -> None:
    stage = "\n".join(_stages((ROOT / "Containerfile").read_text().splitlines())["gpu"])
    assert {"gcc", "libc6-dev"} <= set(stage.split())


def _stages(lines: list[str]) -> dict[str, list[str]]:
    """Each target's lines, after those of the stage that it is made from."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        if line.startswith("FROM "):
            _, source, _, name = line.split()
            found[name] = list(found.get(source, ()))
        elif name:
            found[name].append(line)
    return found


def test_no_file_carries_a_secret() -> None:
    for secret in documents("secrets.yaml"):
        assert set(secret["stringData"].values()) == {""}


def test_the_image_for_gpus_is_pinned_to_the_last_package() -> None:
    stage = "\n".join(_stages((ROOT / "Containerfile").read_text().splitlines())["gpu"])
    assert "-r infra/gpu.txt" in stage
    assert "--no-deps ." in stage
    pins = dict(line.split("==") for line in (INFRA / "gpu.txt").read_text().splitlines())
    # The pair that ray[llm] is tested with.
    assert (pins["ray"], pins["vllm"]) == ("2.60.0", "0.29.0")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needs = [*project["dependencies"], *extras["gpu"], *extras["encoder"]]
    for need in map(Requirement, needs):
        assert need.specifier.contains(pins[need.name.lower()]), need


def test_a_node_of_spot_is_drained_within_its_grace() -> None:
    groups = documents("rayservice.yaml")[0]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    for group in groups:
        pod = group["template"]["spec"]
        given = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
        drains_s = float(given["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert drains_s < pod["terminationGracePeriodSeconds"]
