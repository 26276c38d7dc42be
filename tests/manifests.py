"""Manifests that must be refused, with where and why, and others that must not; for the API server and offline.

Each table maps a name to (manifest, path, words of the sentence). The words are the API server's only where the fault
is a rule's; for types and bounds each side has words of its own.
"""

import copy
from typing import Any

from penstock.api.resource import ModelDeployment
from penstock.api.router import Router, TrafficSplitSpec

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


def router(name: str = "edge", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Router",
        "metadata": {"name": name, "namespace": "default"},
        "spec": copy.deepcopy(spec),
    }


STABLE = {"name": "digits-5b8d0c11", "model": "digits", "weight": 900}
CANDIDATE = {"name": "digits-7c9f41d2", "model": "digits", "weight": 100}
OTHER_CANDIDATE = {**CANDIDATE, "name": "digits-11111111"}


def split(name: str = "digits", **spec: Any) -> dict[str, Any]:
    """A TrafficSplit as the operator writes it; None takes a field away."""
    usual = {
        "router": "default",
        "deployment": "digits",
        "deploymentUid": "6a4cf6a4-0000-4000-8000-000000000000",
        "generation": 17,
        "port": 20000,
        "stable": STABLE["name"],
        "revisions": [CANDIDATE, STABLE],
        "timeoutMilliseconds": 30000,
        "maxRequestBytes": 2**26,
        "maxConcurrent": 1024,
    }
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "TrafficSplit",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {key: value for key, value in copy.deepcopy({**usual, **spec}).items() if value is not None},
    }


def parse(manifest: dict[str, Any]) -> ModelDeployment | Router | TrafficSplitSpec:
    """As the operator reads it."""
    if manifest["kind"] == "TrafficSplit":
        return TrafficSplitSpec.model_validate(manifest["spec"])
    return (Router if manifest["kind"] == "Router" else ModelDeployment).parse(manifest)


def _steps(*weights: Any) -> dict[str, Any]:
    return manifest(rollout={"canary": {"steps": [{"weight": weight} for weight in weights]}})


def _analysis(**analysis: Any) -> dict[str, Any]:
    return manifest(rollout={"analysis": analysis})


def _published(**traffic: Any) -> dict[str, Any]:
    """On a Gateway."""
    usual = {"parentRefs": [{"name": "public"}], "hostnames": ["digits.example.com"]}
    return manifest(traffic={**usual, **traffic})


def _service(**rollout: Any) -> dict[str, Any]:
    return manifest(traffic={"provider": "Service"}, rollout=rollout)


def _replace(**rollout: Any) -> dict[str, Any]:
    return manifest(rollout={"capacity": "Replace", "supervision": {"onLoss": "Keep"}, **rollout})


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
    "a mount of an object store": (
        manifest({"uri": "s3://models/digits", "delivery": "Mount"}),
        "spec.model.delivery",
        "only a PersistentVolumeClaim",
    ),
    "a refresh of a pin": (
        manifest({"digest": DIGEST, "refresh": "5m"}),
        "spec.model.refresh",
        "digest pins the content",
    ),
    "a refresh all the time": (manifest({"refresh": "10s"}), "spec.model.refresh", "at least 1m"),
    "an entrypoint of a graph": (
        manifest({"format": "ONNX", "entrypoint": "net:make", "trust": "Code"}),
        "spec.model.entrypoint",
        "module for bare weights",
    ),
    "weights without an entrypoint": (
        manifest({"format": "SafeTensors"}),
        "spec.model.format",
        "weights alone are no model",
    ),
    "an entrypoint without trust": (
        manifest({"format": "SafeTensors", "entrypoint": "net:make"}),
        "spec.model.entrypoint",
        "trust: Code",
    ),
    "a pointer without a remote": (
        manifest({"uri": "https://example.com/digits.onnx.dvc"}),
        "spec.model.dvcRemote",
        "write uri of the .dvc file and dvcRemote together",
    ),
    "a remote without a pointer": (
        manifest({"uri": "s3://models/digits", "dvcRemote": "s3://models/dvc"}),
        "spec.model.dvcRemote",
        "together",
    ),
    "calibration for nothing": (
        manifest(optimize={"precision": "FP16", "calibration": {"uri": "s3://data/rows.npz"}}),
        "spec.optimize.calibration",
        "Auto or INT8",
    ),
    "a slower speedup": (manifest(optimize={"minSpeedup": "0.5"}), "spec.optimize.minSpeedup", "from 1 to 100"),
    "everything pruned": (manifest(optimize={"prune": {"amount": 1}}), "spec.optimize.prune.amount", "from 0.01 to"),
    "gates without data": (
        manifest(gates={"parity": {"minTop1Agreement": "0.99"}}),
        "spec.gates.dataset",
        "write dataset.uri",
    ),
    "a share above one": (
        manifest(gates={"dataset": {"uri": "s3://data/rows.npz"}, "parity": {"minTop1Agreement": 99}}),
        "spec.gates.parity.minTop1Agreement",
        "a share of the rows",
    ),
    "two metrics": (
        manifest(
            gates={
                "dataset": {"uri": "s3://data/rows.npz"},
                "accuracy": {"metric": "Top1", "image": "example.com/metric:1", "minimum": "0.9"},
            }
        ),
        "spec.gates.accuracy",
        "either metric, or image",
    ),
    "an accuracy of anything": (
        manifest(gates={"dataset": {"uri": "s3://data/rows.npz"}, "accuracy": {"metric": "Top1"}}),
        "spec.gates.accuracy",
        "write minimum, maxDropPercent or both",
    ),
    "a drop of more than all": (
        manifest(gates={"dataset": {"uri": "s3://data/rows.npz"}, "accuracy": {"metric": "F1", "maxDropPercent": 101}}),
        "spec.gates.accuracy.maxDropPercent",
        "points from 0 to 100",
    ),
    "a latency of any length": (
        manifest(gates={"latency": {"concurrency": 8}}),
        "spec.gates.latency",
        "one or more of p50, p95 and p99",
    ),
    "a latency of an hour": (manifest(gates={"latency": {"p95": "1h"}}), "spec.gates.latency.p95", "from 1ms to 10m"),
    "no throughput": (
        manifest(gates={"throughput": {"minPerSecond": 0}}),
        "spec.gates.throughput.minPerSecond",
        "rows per second",
    ),
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
    "a request of hours": (
        manifest(traffic={"timeout": "2h", "router": {"name": "slow"}}),
        "spec.traffic.timeout",
        "from 1s to 1h",
    ),
    "a request longer than the drain": (manifest(traffic={"timeout": "61s"}), "spec.traffic.timeout", "at most 1m"),
    "a router without a router": (
        manifest(traffic={"provider": "Service", "router": {"name": "edge"}}),
        "spec.traffic.provider",
        "need provider: Router",
    ),
    "limits without a router": (
        manifest(traffic={"provider": "Service", "limits": {"maxConcurrent": 8}}),
        "spec.traffic.provider",
        "need provider: Router",
    ),
    "stickiness without a router": (
        manifest(traffic={"provider": "Service", "stickiness": {"header": "x-user-id"}}),
        "spec.traffic.provider",
        "need provider: Router",
    ),
    "sticky by both": (
        manifest(traffic={"stickiness": {"header": "x-user-id", "cookie": "revision"}}),
        "spec.traffic.stickiness",
        "either header or cookie",
    ),
    "sticky by nothing": (manifest(traffic={"stickiness": {}}), "spec.traffic.stickiness", "either header or cookie"),
    "a Gateway without a name to come by": (
        manifest(traffic={"parentRefs": [{"name": "public"}]}),
        "spec.traffic.parentRefs",
        "write both sides or none",
    ),
    "a name without a Gateway": (
        manifest(traffic={"parentRefs": [], "hostnames": ["digits.example.com"]}),
        "spec.traffic.parentRefs",
        "write both sides or none",
    ),
    "a name for HTTP and gRPC": (
        _published(hostnames=["a.example.com", "digits.example.com"], grpcHostnames=["digits.example.com"]),
        "spec.traffic.grpcHostnames",
        "different names",
    ),
    "a name for gRPC among all of HTTP": (
        _published(hostnames=["*.example.com"], grpcHostnames=["digits.example.com"]),
        "spec.traffic.grpcHostnames",
        "different names",
    ),
    "a name for HTTP among all of gRPC": (
        _published(hostnames=["*.b.example.com"], grpcHostnames=["*.example.com"]),
        "spec.traffic.grpcHostnames",
        "different names",
    ),
    "one Gateway twice": (
        _published(parentRefs=[{"name": "public"}, {"name": "public"}]),
        "spec.traffic.parentRefs",
        "stands here twice",
    ),
    "a Gateway and its listener": (
        _published(parentRefs=[{"name": "public"}, {"name": "public", "sectionName": "https"}]),
        "spec.traffic.parentRefs",
        "stands here twice",
    ),
    "one listener twice": (
        _published(parentRefs=[{"name": "public", "sectionName": "https", "port": port} for port in (443, 8443)]),
        "spec.traffic.parentRefs",
        "stands here twice",
    ),
    "requests of 10 bytes": (
        manifest(traffic={"limits": {"maxRequestBytes": 10}}),
        "spec.traffic.limits.maxRequestBytes",
        "from 1Ki to 1Ti",
    ),
    "requests of petabytes": (
        manifest(traffic={"limits": {"maxRequestBytes": "1Pi"}}),
        "spec.traffic.limits.maxRequestBytes",
        "from 1Ki to 1Ti",
    ),
    "a weight of nothing": (_steps(0), "spec.rollout.canary.steps[0].weight", "0.1 to 100"),
    "a weight of 0.05 %": (_steps("0.05"), "spec.rollout.canary.steps[0].weight", "steps of 0.1"),
    "a weight too fine": (_steps(10, "12.25"), "spec.rollout.canary.steps[1].weight", "steps of 0.1"),
    "a weight above all": (_steps(101), "spec.rollout.canary.steps[0].weight", "0.1 to 100"),
    "a shadow of more than all": (
        manifest(rollout={"shadow": {"percent": "100.1"}}),
        "spec.rollout.shadow.percent",
        "0.1 to 100",
    ),
    "steps that fall": (_steps(10, 50, "9.9"), "spec.rollout.canary.steps", "order the steps"),
    "steps that fall as text would not": (_steps(9, 100, "10"), "spec.rollout.canary.steps", "order the steps"),
    "a step of no time": (
        manifest(rollout={"canary": {"steps": [{"weight": 10, "hold": "500ms"}]}}),
        "spec.rollout.canary.steps[0].hold",
        "from 1s to 24h",
    ),
    "a switch of no time": (
        manifest(rollout={"strategy": "BlueGreen", "blueGreen": {"hold": "0s"}}),
        "spec.rollout.blueGreen.hold",
        "from 1s to 24h",
    ),
    "a shadow of no time": (
        manifest(rollout={"shadow": {"percent": 10, "duration": "1ms"}}),
        "spec.rollout.shadow.duration",
        "from 1s to 24h",
    ),
    "steps of another strategy": (
        manifest(rollout={"strategy": "BlueGreen", "canary": {"steps": [{"weight": 10}]}}),
        "spec.rollout.strategy",
        "canary belongs to",
    ),
    "a switch of another strategy": (
        manifest(rollout={"blueGreen": {}}),
        "spec.rollout.strategy",
        "blueGreen to strategy: BlueGreen",
    ),
    "a shadow of a rollout at once": (
        manifest(rollout={"strategy": "Immediate", "shadow": {"percent": 10}}),
        "spec.rollout.strategy",
        "remove what the strategy",
    ),
    "a canary without a router": (_service(strategy="Canary"), "spec.rollout", "no weights and no counters"),
    "steps without a router": (_service(canary={"steps": [{"weight": 10}]}), "spec.rollout", "no weights"),
    "a shadow without a router": (
        _service(strategy="BlueGreen", blueGreen={"autoPromote": False}, shadow={"percent": 1}),
        "spec.rollout",
        "no weights",
    ),
    "a switch that nobody judges": (_service(strategy="BlueGreen"), "spec.rollout", "autoPromote: false"),
    "a switch by itself that nobody judges": (
        _service(strategy="BlueGreen", blueGreen={"autoPromote": True}),
        "spec.rollout",
        "autoPromote: false",
    ),
    "a replacement that goes back by itself": (
        manifest(rollout={"capacity": "Replace"}),
        "spec.rollout.capacity",
        "set supervision.onLoss: Keep",
    ),
    "a replacement that goes back to stable": (
        _replace(supervision={"timeout": "30s", "onLoss": "Stable"}),
        "spec.rollout.capacity",
        "set supervision.onLoss: Keep",
    ),
    "a replacement in steps of its own": (
        _replace(canary={"steps": [{"weight": 10}]}),
        "spec.rollout.capacity",
        "every pod is a step",
    ),
    "a replacement at once": (_replace(strategy="Immediate"), "spec.rollout.capacity", "remove canary, blueGreen"),
    "a replacement by a switch": (
        _replace(strategy="BlueGreen", blueGreen={"keepPrevious": "1m"}),
        "spec.rollout.capacity",
        "remove canary, blueGreen",
    ),
    "a replacement with copies": (
        _replace(shadow={"percent": 10}),
        "spec.rollout.shadow",
        "nobody to copy requests to",
    ),
    "a replacement of no time": (_replace(replace={"hold": "0s"}), "spec.rollout.replace.hold", "from 1s to 24h"),
    "how to replace what is not": (
        manifest(rollout={"replace": {"hold": "10s"}}),
        "spec.rollout.replace",
        "set capacity: Replace",
    ),
    "a replacement under an autoscaler": (
        {**_replace(), "spec": {**_replace()["spec"], "autoscaling": {"max": 3, "target": TARGET}}},
        "spec.autoscaling",
        "remove autoscaling and set replicas",
    ),
    "a replacement without a router": (
        {**_replace(), "spec": {**_replace()["spec"], "traffic": {"provider": "Service"}}},
        "spec.traffic",
        "503 with Retry-After",
    ),
    "fewer errors than stable asked": (
        _analysis(errors={"tolerance": "0.9"}),
        "spec.rollout.analysis.errors.tolerance",
        "from 1 to 100",
    ),
    "errors of nothing": (
        _analysis(errors={"maxPercent": 0}),
        "spec.rollout.analysis.errors.maxPercent",
        "from 0.01 to 100",
    ),
    "more errors than requests": (
        _analysis(errors={"maxPercent": 101}),
        "spec.rollout.analysis.errors.maxPercent",
        "from 0.01 to 100",
    ),
    "the fastest of all": (_analysis(latency={"quantile": 100}), "spec.rollout.analysis.latency.quantile", "to 99.9"),
    "faster than stable asked": (
        _analysis(latency={"tolerance": 101}),
        "spec.rollout.analysis.latency.tolerance",
        "from 1 to 100",
    ),
    "never wrong": (_analysis(falseRollback=0), "spec.rollout.analysis.falseRollback", "from 0.0001 to 0.5"),
    "mostly wrong": (_analysis(falseRollback="0.51"), "spec.rollout.analysis.falseRollback", "from 0.0001 to 0.5"),
    "always sure": (_analysis(promoteConfidence=1), "spec.rollout.analysis.promoteConfidence", "from 0.5 to 0.9999"),
    "never sure": (_analysis(promoteConfidence="0.49"), "spec.rollout.analysis.promoteConfidence", "from 0.5"),
    "no time to judge": (_analysis(deadline="9s"), "spec.rollout.analysis.deadline", "from 10s to 24h"),
    "supervision without a breath": (
        manifest(rollout={"supervision": {"timeout": "9s"}}),
        "spec.rollout.supervision.timeout",
        "from 10s to 1h",
    ),
    "supervision of hours": (
        manifest(rollout={"supervision": {"timeout": "61m"}}),
        "spec.rollout.supervision.timeout",
        "from 10s to 1h",
    ),
    "to begin from nowhere": (manifest(rollout={"initial": {"uri": "digits"}}), "spec.rollout.initial.uri", "oci://"),
    "to begin with a password": (
        manifest(rollout={"initial": {"uri": "https://me:secret@host/x"}}),
        "spec.rollout.initial.uri",
        "credentialsSecretRef",
    ),
    "to begin above": (manifest(rollout={"initial": {"uri": "pvc://c/../x"}}), "spec.rollout.initial.uri", "`..`"),
    "a router's name too long": (router("r" * 41), "metadata.name", "at most 40"),
    "a router's name with a dot": (router("edge.one"), "metadata.name", "names of the fleet's objects"),
    "a router that cuts": (router(drain="500ms"), "spec.drain", "from 1s to 1h"),
    "a router that lingers": (router(drain="2h"), "spec.drain", "from 1s to 1h"),
    "a router that pauses for days": (router(update={"pause": "25h"}), "spec.update.pause", "at most 24h"),
    "a router in another's fleet": (
        router(pod={"labels": {"penstock.dev/router": "default"}}),
        "spec.pod.labels",
        "use other keys",
    ),
    "a split under another name": (split("other"), "metadata.name", "carries the name of its ModelDeployment"),
    "a split to another's revision": (
        split(revisions=[STABLE, {**CANDIDATE, "name": "faces-7c9f41d2"}]),
        "spec.revisions",
        "the split's own alone",
    ),
    "weights below all": (split(revisions=[STABLE]), "spec.revisions", "add up to 1000"),
    "weights above all": (split(revisions=[STABLE, {**CANDIDATE, "weight": 101}]), "spec.revisions", "add up to 1000"),
    "a stable that is not there": (split(stable="digits-00000000"), "spec.stable", "none of the revisions"),
    "a stable of nothing": (split(revisions=[]), "spec.stable", "none of the revisions"),
    "a shadow that is not there": (
        split(shadow={"name": "digits-00000000", "share": 100}),
        "spec.shadow",
        "none of the revisions",
    ),
    "a split sticky by both": (
        split(stickiness={"header": "a", "cookie": "b"}),
        "spec.stickiness",
        "either header or cookie",
    ),
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
    "a provider of later": (manifest(traffic={"provider": "Mesh"}), "spec.traffic.provider", "one of Router, Service"),
    "a router with a dot": (
        manifest(traffic={"router": {"name": "edge.one"}}),
        "spec.traffic.router.name",
        "does not match",
    ),
    "a Gateway of no name": (_published(parentRefs=[{"name": "a_b"}]), "spec.traffic.parentRefs[0].name", "match"),
    "a hostname with a port": (_published(hostnames=["a.example.com:443"]), "spec.traffic.hostnames[0]", "match"),
    "a hostname in capitals": (_published(hostnames=["A.example.com"]), "spec.traffic.hostnames[0]", "match"),
    "no room": (manifest(traffic={"limits": {"maxConcurrent": 0}}), "spec.traffic.limits.maxConcurrent", "at least 1"),
    "a header that breaks out": (
        manifest(traffic={"stickiness": {"header": "x-user: 1\r\nhost"}}),
        "spec.traffic.stickiness.header",
        "does not match",
    ),
    "a cookie with a semicolon": (
        manifest(traffic={"stickiness": {"cookie": "a;b"}}),
        "spec.traffic.stickiness.cookie",
        "does not match",
    ),
    "a strategy of others": (manifest(rollout={"strategy": "Linear"}), "spec.rollout.strategy", "one of Canary"),
    "no steps": (manifest(rollout={"canary": {"steps": []}}), "spec.rollout.canary.steps", "at least 1"),
    "too many steps": (_steps(*range(1, 22)), "spec.rollout.canary.steps", "at most 20"),
    "a step without weight": (
        manifest(rollout={"canary": {"steps": [{"hold": "1m"}]}}),
        "spec.rollout.canary.steps[0].weight",
        "required",
    ),
    "a float as weight": (_steps(0.5), "spec.rollout.canary.steps[0].weight", "a quoted string"),
    "a weight with a sign": (
        manifest(rollout={"shadow": {"percent": "10 %"}}),
        "spec.rollout.shadow.percent",
        "does not match",
    ),
    "a negative weight": (_steps(-1), "spec.rollout.canary.steps[0].weight", "at least 0"),
    "a probability in exponents": (
        _analysis(falseRollback="1e-2"),
        "spec.rollout.analysis.falseRollback",
        "does not match",
    ),
    "a verdict of one's own": (_analysis(onNoTraffic="Pass"), "spec.rollout.analysis.onNoTraffic", "one of Hold"),
    "a command for no revision": (manifest(rollout={"promote": "now"}), "spec.rollout.promote", "does not match"),
    "a command for a step in words": (
        manifest(rollout={"promote": "digits-7c9f41d2/one"}),
        "spec.rollout.promote",
        "does not match",
    ),
    "a command for another hash": (
        manifest(rollout={"abort": "digits-7C9F41D2"}),
        "spec.rollout.abort",
        "does not match",
    ),
    "a token without end": (manifest(rollout={"retryToken": "2" * 65}), "spec.rollout.retryToken", "at most 64"),
    "a token that is a number": (manifest(rollout={"retryToken": 2}), "spec.rollout.retryToken", "quote it"),
    "a history of less than nothing": (
        manifest(rollout={"revisionHistoryLimit": -1}),
        "spec.rollout.revisionHistoryLimit",
        "at least 0",
    ),
    "a fleet of none": (router(replicas=0), "spec.replicas", "at least 1"),
    "a fleet of a thousand": (router(replicas=1000), "spec.replicas", "at most 100"),
    "a fleet's memory in words": (
        router(resources={"limits": {"memory": "much"}}),
        "spec.resources.limits.memory",
        "does not match",
    ),
    "a port of somebody else": (split(port=10091), "spec.port", "at least 20000"),
    "a port above": (split(port=30000), "spec.port", "at most 29999"),
    "a revision with a slash": (
        split(revisions=[{**STABLE, "name": "digits-5b8d0c11/http", "weight": 1000}], stable=None),
        "spec.revisions[0].name",
        "does not match",
    ),
    "a revision with a dot": (
        split(revisions=[{**STABLE, "name": "digits-a.b", "weight": 1000}], stable=None),
        "spec.revisions[0].name",
        "does not match",
    ),
    "a revision twice": (
        split(revisions=[STABLE, {**CANDIDATE, "weight": 50}, {**CANDIDATE, "weight": 50}]),
        "spec.revisions[2]",
        "already",
    ),
    "a model that climbs": (
        split(revisions=[{**STABLE, "model": "../../etc", "weight": 1000}]),
        "spec.revisions[0].model",
        "does not match",
    ),
    "a weight below nothing": (
        split(revisions=[{**STABLE, "weight": -1}, {**CANDIDATE, "weight": 1000}, {**OTHER_CANDIDATE, "weight": 1}]),
        "spec.revisions[0].weight",
        "at least 0",
    ),
    "a deployment with a dot": (
        split("digits.v1", deployment="digits.v1", revisions=[], stable=None),
        "spec.deployment",
        "does not match",
    ),
    "a uid that climbs": (split(deploymentUid="../x"), "spec.deploymentUid", "does not match"),
    "a router that climbs": (split(router="../x"), "spec.router", "does not match"),
    "no generation": (split(generation=0), "spec.generation", "at least 1"),
    "a generation not said": (split(generation=None), "spec.generation", "required"),
    "revisions not said": (split(revisions=None, stable=None), "spec.revisions", "required"),
    "a stickiness that breaks out": (
        split(stickiness={"cookie": "a\nb"}),
        "spec.stickiness.cookie",
        "does not match",
    ),
    "a request without an end": (split(timeoutMilliseconds=3_600_001), "spec.timeoutMilliseconds", "at most 3600000"),
    "requests without a bound": (split(maxRequestBytes=2**41), "spec.maxRequestBytes", "at most 1099511627776"),
    "more at once than anything": (split(maxConcurrent=2_000_000), "spec.maxConcurrent", "at most 1000000"),
    "a copy of nothing": (split(shadow={"name": STABLE["name"], "share": 0}), "spec.shadow.share", "at least 1"),
    "supervision that never ends": (
        split(supervision={"timeoutSeconds": 10**6, "renewTime": "2026-01-01T12:00:00Z"}),
        "spec.supervision.timeoutSeconds",
        "at most 86400",
    ),
}
"""Refused by the schema."""

UNKNOWN: dict[str, tuple[dict[str, Any], str, str]] = {
    "a misspelt field": (manifest(replcas=2), "spec.replcas", "did you mean replicas?"),
    "a field in another case": (manifest({"servedname": "x"}), "spec.model.servedname", "did you mean servedName?"),
    "a field of a later release": (manifest(optimise={"precision": "INT8"}), "spec.optimise", "did you mean optimize?"),
    "a Gateway of a kind": (
        _published(parentRefs=[{"name": "mesh", "kind": "Service"}]),
        "spec.traffic.parentRefs[0].kind",
        "no field of this name",
    ),
    "a template": (manifest(pod={"volumes": []}), "spec.pod.volumes", "no field of this name"),
    "a router's template": (router(pod={"containers": []}), "spec.pod.containers", "no field of this name"),
    "a router in a host's network": (router(pod={"hostNetwork": True}), "spec.pod.hostNetwork", "no field"),
    "Envoy's own words": (split(envoy={"cluster": {}}), "spec.envoy", "no field of this name"),
    "an address in a split": (
        split(revisions=[{**STABLE, "weight": 1000, "address": "169.254.169.254"}]),
        "spec.revisions[0].address",
        "no field of this name",
    ),
}
"""Refused by the API server when it is asked to be strict, as kubectl does."""

ACCEPTED: dict[str, dict[str, Any]] = {
    "the smallest": manifest(),
    "forty characters": manifest(name="d" * 40),
    "a generated name": {**manifest(), "metadata": {"generateName": "digits-", "namespace": "default"}},
    "nulls": manifest({"format": None, "signature": None}, server={"resources": {"limits": {"cpu": "1"}}}, pod=None),
    "a null in a map": manifest(pod={"labels": {"team": None}}),
    "gs": manifest({"uri": "gs://models/digits/7", "connection": {"endpoint": "https://storage.example"}}),
    "az": manifest({"uri": "az://models/digits/7"}),
    "hf": manifest({"uri": "hf://penstock/digits@main", "refresh": "1m"}),
    "a file of a hub": manifest({"uri": "hf://penstock/digits/model.onnx"}),
    "mlflow": manifest({"uri": "models:/digits@champion", "connection": {"endpoint": "http://mlflow.ml:5000"}}),
    "mlflow by version": manifest({"uri": "models:/digits/3", "format": "MLflow"}),
    "dvc": manifest({"uri": "https://git.example/raw/model.onnx.dvc", "dvcRemote": "s3://models/dvc"}),
    "weights": manifest({"format": "SafeTensors", "entrypoint": "net.small:make", "trust": "Code"}),
    "a mounted claim": manifest({"uri": "pvc://models/large", "delivery": "Mount"}),
    "everything proven": manifest(
        {"format": "TorchExport", "convert": "Auto"},
        optimize={
            "precision": "Auto",
            "calibration": {"uri": "s3://data/rows.npz", "maxSamples": 100},
            "minSpeedup": "1.5",
            "prune": {"amount": "0.3"},
            "hook": {"image": "example.com/distil:1", "command": ["python", "distil.py"]},
        },
        gates={
            "dataset": {"uri": "s3://data/held-out.npz", "digest": DIGEST, "credentialsSecretRef": {"name": "s3"}},
            "parity": {"minTop1Agreement": 1, "maxAbsoluteDifference": "1e-3", "minRowShare": "0.99"},
            "accuracy": {"metric": "Top1", "maxDropPercent": "0.5"},
            "latency": {"p95": "20ms", "p99": "40ms", "concurrency": 8},
            "throughput": {"minPerSecond": 200},
            "size": {"max": "100Mi"},
            "memory": {"max": "1Gi"},
            "tune": {"goal": "Throughput", "trials": 12},
        },
        prepare={"pod": {"serviceAccountName": "model-reader", "nodeSelector": {"disk": "large"}}},
    ),
    "a metric of one's own": manifest(
        gates={"dataset": {"uri": "s3://data/rows.npz"}, "accuracy": {"image": "example.com/metric:1", "minimum": 1}}
    ),
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
    "a rollout of everything": manifest(
        rollout={
            "strategy": "Canary",
            "canary": {"steps": [{"weight": "0.1", "hold": "1s"}, {"weight": 10}, {"weight": "10"}, {"weight": 100}]},
            "shadow": {"percent": "0.5", "duration": "24h"},
            "analysis": {
                "mode": "Observe",
                "allowInterfaceChange": True,
                "errors": {"tolerance": 1, "maxPercent": "0.01"},
                "latency": {"quantile": "99.9", "tolerance": "1.5"},
                "falseRollback": "0.0001",
                "promoteConfidence": "0.9999",
                "onNoTraffic": "Promote",
                "deadline": "10s",
            },
            "supervision": {"timeout": "10s", "onLoss": "Keep"},
            "initial": {"uri": f"oci://host/m@{DIGEST}", "digest": DIGEST},
            "paused": True,
            "promote": "digits-7c9f41d2/1",
            "abort": "",
            "retryToken": "2",
            "revisionHistoryLimit": 0,
        }
    ),
    "a rollout that says nothing": manifest(rollout={"analysis": {"errors": {}, "latency": {}}, "supervision": {}}),
    "a wide analysis": _analysis(
        errors={"tolerance": 100, "maxPercent": 100},
        latency={"quantile": 50, "tolerance": 100},
        falseRollback="0.5",
        promoteConfidence="0.5",
        deadline="24h",
    ),
    "no room for both": _replace(strategy="Canary", replace={"hold": "5m"}),
    "room for both": manifest(rollout={"capacity": "Surge", "strategy": "Immediate"}),
    "twenty steps": _steps(*range(1, 21)),
    "a switch": manifest(
        rollout={
            "strategy": "BlueGreen",
            "blueGreen": {"autoPromote": False, "hold": "1s", "keepPrevious": "0s"},
            "shadow": {"percent": 100},
            "promote": "digits-7c9f41d2",
        }
    ),
    "at once": manifest(rollout={"strategy": "Immediate"}),
    "at once without a router": _service(strategy="Immediate", revisionHistoryLimit=3),
    "a switch by hand without a router": _service(strategy="BlueGreen", blueGreen={"autoPromote": False}),
    "no router": manifest(traffic={"provider": "Service", "timeout": "1h"}),
    "no router, no strategy": _service(paused=True),
    "published": _published(),
    "published for gRPC alone": _published(hostnames=[], grpcHostnames=["grpc.example.com"]),
    "published everywhere": _published(
        provider="Service",
        hostnames=["*.http.example.com", "http.example.com"],
        grpcHostnames=["*.grpc.example.com"],
        parentRefs=[
            {"name": "public"},
            {"name": "public", "namespace": "infra", "sectionName": "a"},
            {"name": "public", "namespace": "infra", "sectionName": "b", "port": 443},
        ],
    ),
    "published nowhere": manifest(traffic={"parentRefs": [], "hostnames": []}),
    "a router of one's own": manifest(
        traffic={
            "provider": "Router",
            "router": {"name": "edge"},
            "timeout": "1h",
            "limits": {"maxRequestBytes": "1Ti", "maxConcurrent": 1},
            "stickiness": {"cookie": "digits.revision"},
        }
    ),
    "a request as long as the drain": manifest(
        traffic={"timeout": "60s", "limits": {"maxRequestBytes": 1024}, "stickiness": {"header": "x-user-id"}}
    ),
    "the smallest router": router("default"),
    "a router of everything": router(
        replicas=3,
        image="mirror.example/penstock-router:1",
        resources={"requests": {"cpu": "500m"}, "limits": {"memory": "1Gi"}},
        drain="1h",
        update={"pause": "0s"},
        pod={
            "labels": {"team": "vision"},
            "annotations": {"note": "any"},
            "nodeSelector": {"zone": "a"},
            "tolerations": [{"key": "edge", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {}},
            "topologySpreadConstraints": [{"maxSkew": 1}],
            "priorityClassName": "high",
            "imagePullSecrets": [{"name": "pull"}],
        },
    ),
    "a split": split(),
    "a split of nothing": split(revisions=[], stable=None),
    "a split of what only drains": split(revisions=[{**STABLE, "weight": 0}], stable=None),
    "a split of everything": split(
        port=29999,
        revisions=[{**STABLE, "weight": 1000}, {**CANDIDATE, "weight": 0}],
        shadow={"name": CANDIDATE["name"], "share": 1000},
        supervision={"timeoutSeconds": 60, "renewTime": "2026-01-01T12:00:00Z", "onLoss": "Keep"},
        stickiness={"header": "x-user-id"},
        timeoutMilliseconds=3_600_000,
        maxRequestBytes=2**40,
    ),
}
