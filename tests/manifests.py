"""ModelDeployments that must be refused, with where and why, and others that must not; for the API server and offline.

Each table maps a name to (manifest, path, words of the sentence). The words are the API server's only where the fault
is a rule's; for types and bounds each side has words of its own.
"""

import copy
from typing import Any

URI = "oci://registry.penstock-system:5000/models/digits:v1"
DIGEST = "sha256:" + "0" * 64
OTHER = "sha256:" + "1" * 64
TENSOR = {"name": "image", "dataType": "FP32", "dims": [-1, 8, 8]}
TARGET = {"cpuPercent": 70}


def manifest(model: dict[str, Any] | None = None, name: str = "digits", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"model": {"uri": URI, **(model or {})}, **copy.deepcopy(spec)},
    }


def _batching(count: int | None, **batching: Any) -> dict[str, Any]:
    return manifest(server={"instances": {"count": count} if count else {}, "batching": batching})


def _spec(spec: Any) -> dict[str, Any]:
    return {**manifest(), "spec": spec}


RULES: dict[str, tuple[dict[str, Any], str, str]] = {
    "name too long": (manifest(name="d" * 41), "metadata.name", "at most 40"),
    "name starts with a digit": (manifest(name="7digits"), "metadata.name", "a letter first"),
    "name with a dot": (manifest(name="digits.v1"), "metadata.name", "letters, digits and dashes"),
    "uri without scheme": (manifest({"uri": "models/digits"}), "spec.model.uri", "write oci://"),
    "uri of another scheme": (manifest({"uri": "ftp://host/digits"}), "spec.model.uri", "write oci://"),
    "uri without path": (manifest({"uri": "s3://bucket"}), "spec.model.uri", "s3://bucket/key"),
    "uri with a space": (manifest({"uri": "https://host/a b"}), "spec.model.uri", "https://host/path"),
    "uri with a line break": (manifest({"uri": "https://host/a\n"}), "spec.model.uri", "https://host/path"),
    "uri with a password": (manifest({"uri": "https://me:secret@host/x"}), "spec.model.uri", "credentialsSecretRef"),
    "uri that climbs": (manifest({"uri": "pvc://claim/../other"}), "spec.model.uri", "without `..`"),
    "two digests": (
        manifest({"uri": f"oci://host/m@{DIGEST}", "digest": OTHER}),
        "spec.model.digest",
        "make them equal",
    ),
    "a tag's pin and none": (manifest({"uri": "oci://host/m@v1", "digest": DIGEST}), "spec.model.digest", "equal"),
    "credentials for a claim": (
        manifest({"uri": "pvc://claim/m", "credentialsSecretRef": {"name": "s"}}),
        "spec.model.credentialsSecretRef",
        "needs no credentials",
    ),
    "tensors of a repository": (
        manifest({"format": "TritonRepository", "inputs": [TENSOR]}),
        "spec.model.format",
        "config.pbtxt",
    ),
    "settings of a repository": (
        manifest({"format": "TritonRepository"}, server={"warmup": "None"}),
        "spec.server",
        "served as it is",
    ),
    "batching over one instance": (
        _batching(1, maxBatchSize=8),
        "spec.server.instances.count",
        "set instances.count to 2 or more, or drop batching",
    ),
    "a queue over one instance": (_batching(1, maxQueueSize=8), "spec.server.instances.count", "single instance"),
    "a queue without batching": (
        _batching(2, maxBatchSize=0, maxQueueSize=8),
        "spec.server.batching.maxBatchSize",
        "queue",
    ),
    "a wait without batching": (
        _batching(2, maxBatchSize=0, queueTimeout="1s"),
        "spec.server.batching.maxBatchSize",
        "queue",
    ),
    "preferred above maximum": (
        _batching(2, maxBatchSize=8, preferredBatchSizes=[4, 16]),
        "spec.server.batching.preferredBatchSizes",
        "raise maxBatchSize",
    ),
    "GPU without a GPU": (
        manifest(server={"instances": {"kind": "GPU"}}),
        "spec.server.instances.kind",
        "nvidia.com/gpu",
    ),
    "flag with dashes": (
        manifest(server={"flags": {"--log-verbose": "1"}}),
        "spec.server.flags",
        "without the leading dashes",
    ),
    "a label of ours": (manifest(pod={"labels": {"penstock.dev/revision": "x"}}), "spec.pod.labels", "use other keys"),
    "a label of ours too": (
        manifest(pod={"labels": {"app.kubernetes.io/name": "x"}}),
        "spec.pod.labels",
        "use other keys",
    ),
    "a label that is none": (manifest(pod={"labels": {"a b": "x"}}), "spec.pod.labels", "a key is a name"),
    "an annotation that is none": (
        manifest(pod={"annotations": {"/x": "y"}}),
        "spec.pod.annotations",
        "a key is a name",
    ),
    "a variable of ours": (manifest(pod={"env": [{"name": "PENSTOCK_X"}]}), "spec.pod.env[0].name", "use another name"),
    "min above max": (
        manifest(autoscaling={"min": 3, "max": 2, "target": TARGET}),
        "spec.autoscaling.min",
        "lower min",
    ),
    "a timeout of days": (manifest(prepare={"timeout": "25h"}), "spec.prepare.timeout", "at most 24h"),
    "a timeout of ages": (manifest(prepare={"timeout": "999999h" * 4}), "spec.prepare.timeout", "at most 24h"),
    "a timeout of nothing": (manifest(prepare={"timeout": "0s"}), "spec.prepare.timeout", "at least 10s"),
    "a request without time": (manifest(traffic={"timeout": "10ms"}), "spec.traffic.timeout", "from 1s to 1h"),
    "a request of hours": (manifest(traffic={"timeout": "2h"}), "spec.traffic.timeout", "from 1s to 1h"),
}
"""Refused by a rule: the API server answers with these very words."""

TYPES: dict[str, tuple[dict[str, Any], str, str]] = {
    "no spec": ({key: value for key, value in manifest().items() if key != "spec"}, "spec", "required"),
    "no model": (_spec({}), "spec.model", "required"),
    "no uri": (_spec({"model": {}}), "spec.model.uri", "required"),
    "uri is null": (_spec({"model": {"uri": None}}), "spec.model.uri", "required"),
    "uri is empty": (manifest({"uri": ""}), "spec.model.uri", "at least 1"),
    "spec is a list": (_spec([]), "spec", "an object goes here"),
    "unknown format": (manifest({"format": "onnx"}), "spec.model.format", "did you mean ONNX?"),
    "a digest without algorithm": (manifest({"digest": "0" * 64}), "spec.model.digest", "does not match"),
    "a digest and a line break": (manifest({"digest": DIGEST + "\n"}), "spec.model.digest", "does not match"),
    "served name with a slash": (manifest({"servedName": "a/b"}), "spec.model.servedName", "does not match"),
    "trust as a boolean": (manifest({"trust": True}), "spec.model.trust", "a string goes here"),
    "unknown data type": (
        manifest({"inputs": [{**TENSOR, "dataType": "FLOAT"}]}),
        "spec.model.inputs[0].dataType",
        "FP32",
    ),
    "one tensor twice": (manifest({"inputs": [TENSOR, TENSOR]}), "spec.model.inputs[1]", "already"),
    "a dimension of -2": (
        manifest({"inputs": [{**TENSOR, "dims": [-2]}]}),
        "spec.model.inputs[0].dims[0]",
        "at least -1",
    ),
    "nine dimensions": (manifest({"inputs": [{**TENSOR, "dims": [1] * 9}]}), "spec.model.inputs[0].dims", "at most 8"),
    "no instances": (manifest(server={"instances": {"count": 0}}), "spec.server.instances.count", "at least 1"),
    "a flag that is no string": (
        manifest(server={"flags": {"log-verbose": 1}}),
        "spec.server.flags.log-verbose",
        "quote it",
    ),
    "half a core": (
        manifest(server={"resources": {"limits": {"cpu": 0.5}}}),
        "spec.server.resources.limits.cpu",
        "quoted",
    ),
    "a negative core": (
        manifest(server={"resources": {"limits": {"cpu": -1}}}),
        "spec.server.resources.limits.cpu",
        "least 0",
    ),
    "a quantity in words": (
        manifest(server={"resources": {"requests": {"memory": "1 GB"}}}),
        "spec.server.resources.requests.memory",
        "does not match",
    ),
    "a duration in words": (manifest(prepare={"timeout": "5 minutes"}), "spec.prepare.timeout", "does not match"),
    "a duration as a number": (manifest(prepare={"timeout": 300}), "spec.prepare.timeout", "a string goes here"),
    "replicas below zero": (manifest(replicas=-1), "spec.replicas", "at least 0"),
    "replicas in quotes": (manifest(replicas="2"), "spec.replicas", "an integer goes here"),
    "half a replica": (manifest(replicas=1.5), "spec.replicas", "an integer goes here"),
    "no target": (manifest(autoscaling={"max": 2}), "spec.autoscaling.target", "required"),
    "a variable twice": (manifest(pod={"env": [{"name": "A"}, {"name": "A"}]}), "spec.pod.env[1]", "already"),
    "a variable that is null": (manifest(pod={"env": [None]}), "spec.pod.env[0]", "an object goes here"),
    "a label's value": (manifest(pod={"labels": {"team": "a b"}}), "spec.pod.labels.team", "does not match"),
    "a Secret's name": (
        manifest({"credentialsSecretRef": {"name": "Key"}}),
        "spec.model.credentialsSecretRef.name",
        "match",
    ),
    "an affinity in a list": (manifest(pod={"affinity": []}), "spec.pod.affinity", "an object goes here"),
}
"""Refused by the schema."""

UNKNOWN: dict[str, tuple[dict[str, Any], str, str]] = {
    "a misspelt field": (manifest(replcas=2), "spec.replcas", "did you mean replicas?"),
    "a field in another case": (manifest({"servedname": "x"}), "spec.model.servedname", "did you mean servedName?"),
    "a field of a later release": (manifest(optimize={"precision": "INT8"}), "spec.optimize", "no field of this name"),
    "a template": (manifest(pod={"volumes": []}), "spec.pod.volumes", "no field of this name"),
}
"""Refused by the API server when it is asked to be strict, as kubectl does."""

ACCEPTED: dict[str, dict[str, Any]] = {
    "the smallest": manifest(),
    "forty characters": manifest(name="d" * 40),
    "a generated name": {**manifest(), "metadata": {"generateName": "digits-", "namespace": "default"}},
    "nulls": manifest({"format": None, "signature": None}, server={"resources": {"limits": {"cpu": "1"}}}, pod=None),
    "a null in a map": manifest(pod={"labels": {"team": None}}),
    "s3": manifest({"uri": "s3://models/digits/7", "credentialsSecretRef": {"name": "s3-reader"}}),
    "a claim": manifest({"uri": "pvc://claim/path/to/model"}),
    "a whole claim": manifest({"uri": "pvc://claim"}),
    "https with a query": manifest({"uri": "https://host:8443/a/b.onnx?version=3&x=%20"}),
    "two dots in a name": manifest({"uri": "https://host/a..b/c"}),
    "digest in both places": manifest({"uri": f"oci://host/m@{DIGEST}", "digest": DIGEST}),
    "batching over two": _batching(2, maxBatchSize=32, preferredBatchSizes=[8, 16], maxQueueDelay="5ms"),
    "batching off over one": _batching(1, maxBatchSize=0),
    "batching that says nothing": _batching(1),
    "no wait without batching": _batching(1, maxBatchSize=0, maxQueueDelay="0s", preferredBatchSizes=[]),
    "a repository": manifest({"format": "TritonRepository", "trust": "Code"}, server={"flags": {"log-verbose": "1"}}),
    "a GPU": manifest(server={"instances": {"kind": "GPU"}, "resources": {"limits": {"nvidia.com/gpu": 1}}}),
    "a part of a GPU": manifest(
        server={"instances": {"kind": "GPU"}, "resources": {"limits": {"nvidia.com/mig-1g.10gb": "1"}}}
    ),
    "an integral float": manifest(server={"instances": {"count": 2.0}}),
    "scaled to nothing": manifest(replicas=0),
    "autoscaled": manifest(autoscaling={"max": 10, "target": TARGET, "behavior": {"scaleDown": {"policies": []}}}),
    "extra configuration": manifest(
        server={"config": {"optimization": {"priority": "PRIORITY_MAX"}, "anything": [1, None]}}
    ),
    "placement": manifest(
        pod={
            "labels": {"team": "vision", "example.com/cost-centre": "7", "empty": ""},
            "annotations": {"example.com/note": "any text: {}"},
            "nodeSelector": {"kubernetes.io/arch": "amd64"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "topologySpreadConstraints": [{"maxSkew": 1}],
            "priorityClassName": "high",
            "imagePullSecrets": [{"name": "pull"}],
            "env": [{"name": "OMP_NUM_THREADS", "value": "1"}, {"name": "EMPTY"}],
        }
    ),
    "durations": manifest(prepare={"timeout": "1h30m"}, traffic={"timeout": "1.5s"}),
}
