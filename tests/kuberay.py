"""The shape of KubeRay's resources, as JSON schemas: all fields, and the types of those we use.

Written down from the Go types of KubeRay 1.5 (ray-operator/apis/ray/v1: raycluster_types.go,
rayservice_types.go, rayjob_types.go), whose schemas come in no installable package. Pod templates
and services are Kubernetes' own and are checked against its schemas.
"""

from __future__ import annotations

from typing import Any

STRING = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}
FLAG = {"type": "boolean"}
WORDS = {"type": "object", "additionalProperties": STRING}
ANY: dict[str, Any] = {}
TEMPLATE = {"type": "object", "required": ["spec"]}


def strict(required: str, **fields: Any) -> dict[str, Any]:
    """An object with these fields only."""
    return {
        "type": "object",
        "properties": fields,
        "required": required.split(),
        "additionalProperties": False,
    }


def one_of(*words: str) -> dict[str, Any]:
    return {"enum": list(words)}


CREDENTIAL = strict("", value=STRING, valueFrom={"type": "object"})
GROUP = {"rayStartParams": WORDS, "template": TEMPLATE, "labels": WORDS, "resources": WORDS}
CLUSTER = strict(
    "headGroupSpec",
    rayVersion=STRING,
    suspend=FLAG,
    managedBy=STRING,
    enableInTreeAutoscaling=FLAG,
    headServiceAnnotations=WORDS,
    authOptions=strict("", mode=one_of("disabled", "token")),
    autoscalerOptions=strict(
        "",
        version=one_of("v1", "v2"),
        idleTimeoutSeconds=COUNT,
        upscalingMode=one_of("Default", "Aggressive", "Conservative"),
        resources={"type": "object"},
        image=STRING,
        imagePullPolicy=STRING,
        env={"type": "array"},
        envFrom={"type": "array"},
        volumeMounts={"type": "array"},
        securityContext={"type": "object"},
    ),
    gcsFaultToleranceOptions=strict(
        "redisAddress",
        redisAddress=STRING,
        redisUsername=CREDENTIAL,
        redisPassword=CREDENTIAL,
        externalStorageNamespace=STRING,
    ),
    headGroupSpec=strict(
        "rayStartParams template",
        serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
        headService={"type": "object"},
        enableIngress=FLAG,
        **GROUP,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": strict(
            "groupName rayStartParams template minReplicas maxReplicas",
            groupName={"type": "string", "minLength": 1},
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            idleTimeoutSeconds=COUNT,
            numOfHosts=COUNT,
            suspend=FLAG,
            scaleStrategy={"type": "object"},
            **GROUP,
        ),
    },
)
SERVICE = strict(
    "serveConfigV2 rayClusterConfig",
    serveConfigV2=STRING,
    rayClusterConfig=CLUSTER,
    serveService={"type": "object"},
    upgradeStrategy=strict(
        "",
        type=one_of("None", "NewCluster", "NewClusterWithIncrementalUpgrade"),
        clusterUpgradeOptions={"type": "object"},
    ),
    serviceUnhealthySecondThreshold=COUNT,
    deploymentUnhealthySecondThreshold=COUNT,
    excludeHeadPodFromServeSvc=FLAG,
    rayClusterDeletionDelaySeconds=COUNT,
)
JOB = strict(
    "entrypoint",
    entrypoint=STRING,
    rayClusterSpec=CLUSTER,
    clusterSelector=WORDS,
    metadata=WORDS,
    runtimeEnvYAML=STRING,
    jobId=STRING,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    submitterPodTemplate=TEMPLATE,
    submitterConfig=strict("", backoffLimit=COUNT),
    activeDeadlineSeconds=COUNT,
    backoffLimit=COUNT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    deletionStrategy={"type": "object"},
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=STRING,
    managedBy=STRING,
    suspend=FLAG,
)
METADATA = strict("name", name=STRING, namespace=STRING, labels=WORDS, annotations=WORDS)
KINDS = {
    kind: strict(
        "apiVersion kind metadata spec",
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=METADATA,
        spec=spec,
    )
    for kind, spec in (("RayService", SERVICE), ("RayJob", JOB))
}
