"""What a ModelDeployment must be beyond the types of its fields: every CEL rule, beside its twin in Python.

A rule refuses what can be known from the object alone, and its message names the way out. The twins make `penstock
validate` answer offline what the API server would; they see plain JSON that fits the schema, as the CEL does.
"""

import re
from typing import Any

from .base import ONE_DAY, Rule
from .units import duration_seconds

__all__ = [
    "AUTOSCALING_RANGE",
    "BATCHING_NEEDS_TWO",
    "BY_CEL",
    "CONFIDENCE_RANGE",
    "DEADLINE_RANGE",
    "DEPLOYMENT_NAME",
    "DIGEST_OF_URI",
    "ENV_NAME",
    "FLAG_NAME",
    "GPU_LIMIT",
    "HOLD_RANGE",
    "LABEL_KEYS",
    "METADATA_KEYS",
    "NO_CREDENTIALS_FOR_CLAIM",
    "ONE_STICKINESS",
    "PERCENT_RANGE",
    "PREFERRED_WITHIN_MAXIMUM",
    "PREPARE_TIMEOUT",
    "PROBABILITY_RANGE",
    "QUANTILE_RANGE",
    "QUEUE_NEEDS_BATCHING",
    "REQUEST_TIMEOUT",
    "ROUTER_FIELDS",
    "STEPS_GROW",
    "STRATEGY_FIELDS",
    "STRATEGY_OF_PROVIDER",
    "SUPERVISION_RANGE",
    "TIMEOUT_WITHIN_DRAIN",
    "TOLERANCE_RANGE",
    "URI_CLEAN",
    "URI_FORM",
    "URI_WITHOUT_PARENTS",
    "VERBATIM_SERVER",
    "VERBATIM_TENSORS",
    "WEIGHT_RANGE",
]

Json = dict[str, Any]
_NAME = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
_KEY = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
_URI = r"^((oci|s3|https)://[^/\s]+/[^\s]+|pvc://[a-z0-9][-a-z0-9.]*(/[^\s]*)?)$"
_USER = "^[a-z0-9]+://[^/]*@"
_PARENT = r"/\.\.(/|$)"
_OWN_LABELS = "^(penstock\\.dev/.*|app\\.kubernetes\\.io/(name|component|managed-by|part-of))$"


def _matches(pattern: str, text: str) -> bool:
    """As CEL's `matches`: found anywhere, `$` is the end of the text and not of a line."""
    return re.search(pattern.replace("$", r"\Z"), text, re.ASCII) is not None


def _literal(pattern: str) -> str:
    escaped = pattern.replace("\\", "\\\\")
    return f"'{escaped}'"


def _limits(server: Json) -> Json:
    found: Json = server.get("resources", {}).get("limits", {})
    return found


DEPLOYMENT_NAME = Rule(
    f"size(self.metadata.name) <= 40 && self.metadata.name.matches({_literal(_NAME)})",
    lambda root: len(root["metadata"]["name"]) <= 40 and _matches(_NAME, root["metadata"]["name"]),
    "the name becomes part of Service and revision names: write at most 40 lower case letters, digits and dashes,"
    " a letter first, no dash last",
    ".metadata.name",
)

URI_FORM = Rule(
    f"self.matches({_literal(_URI)})",
    lambda uri: _matches(_URI, uri),
    "write oci://host/repository:tag, s3://bucket/key, https://host/path or pvc://claim/path",
)
URI_CLEAN = Rule(
    f"!self.matches({_literal(_USER)})",
    lambda uri: not _matches(_USER, uri),
    "take user name and password out of the URI and name a Secret that holds them in credentialsSecretRef",
)
URI_WITHOUT_PARENTS = Rule(
    f"!self.matches({_literal(_PARENT)})",
    lambda uri: not _matches(_PARENT, uri),
    "write the path without `..`",
)

DIGEST_OF_URI = Rule(
    "!has(self.digest) || !self.uri.startsWith('oci://') || !self.uri.contains('@')"
    " || self.uri.endsWith('@' + self.digest)",
    lambda model: (
        "digest" not in model
        or not model["uri"].startswith("oci://")
        or "@" not in model["uri"]
        or model["uri"].endswith("@" + model["digest"])
    ),
    "the uri names another digest than this; remove one of them or make them equal",
    ".digest",
)
NO_CREDENTIALS_FOR_CLAIM = Rule(
    "!has(self.credentialsSecretRef) || !self.uri.startsWith('pvc://')",
    lambda model: "credentialsSecretRef" not in model or not model["uri"].startswith("pvc://"),
    "a PersistentVolumeClaim is mounted and needs no credentials; remove credentialsSecretRef",
    ".credentialsSecretRef",
)
VERBATIM_TENSORS = Rule(
    "!(has(self.format) && self.format == 'TritonRepository' && (has(self.inputs) || has(self.outputs)))",
    lambda model: not (model.get("format") == "TritonRepository" and ("inputs" in model or "outputs" in model)),
    "a TritonRepository is served as it is; remove inputs and outputs and declare them in its own config.pbtxt",
    ".format",
)

PREPARE_TIMEOUT = Rule(
    "duration(self) >= duration('10s')",
    lambda text: duration_seconds(text) >= 10,
    "no preparation ends this soon; write at least 10s",
)
REQUEST_TIMEOUT = Rule(
    "duration(self) >= duration('1s') && duration(self) <= duration('1h')",
    lambda text: 1 <= duration_seconds(text) <= 3600,
    "pods that go away wait this long for their last requests; write a time from 1s to 1h",
)

PREFERRED_WITHIN_MAXIMUM = Rule(
    "!has(self.preferredBatchSizes) || !has(self.maxBatchSize) || self.maxBatchSize == 0"
    " || self.preferredBatchSizes.all(size, size <= self.maxBatchSize)",
    lambda batching: (
        not batching.get("maxBatchSize")
        or all(size <= batching["maxBatchSize"] for size in batching.get("preferredBatchSizes", ()))
    ),
    "a preferred batch size is above maxBatchSize; lower it, or raise maxBatchSize",
    ".preferredBatchSizes",
)
QUEUE_NEEDS_BATCHING = Rule(
    "!has(self.maxBatchSize) || self.maxBatchSize > 0 || !(has(self.maxQueueSize)"
    " || (has(self.preferredBatchSizes) && size(self.preferredBatchSizes) > 0)"
    " || (has(self.maxQueueDelay) && duration(self.maxQueueDelay) > duration('0s'))"
    " || (has(self.queueTimeout) && duration(self.queueTimeout) > duration('0s')))",
    lambda batching: batching.get("maxBatchSize") != 0 or not _names_queue(batching),
    "the queue exists only inside dynamic batching, which maxBatchSize: 0 turns off; remove the other fields of"
    " batching, or raise maxBatchSize",
    ".maxBatchSize",
)
BATCHING_NEEDS_TWO = Rule(
    "!(has(self.instances) && has(self.instances.count) && self.instances.count == 1 && has(self.batching))"
    " || (has(self.batching.maxBatchSize) ? self.batching.maxBatchSize == 0 : !(has(self.batching.maxQueueSize)"
    " || has(self.batching.preferredBatchSizes) || has(self.batching.maxQueueDelay)"
    " || has(self.batching.queueTimeout)))",
    lambda server: (
        server.get("instances", {}).get("count") != 1
        or server.get("batching", {}).get("maxBatchSize", 1 if server.get("batching") else 0) == 0
    ),
    "dynamic batching over a single instance stalls Python-based backends; set instances.count to 2 or more, or drop"
    " batching",
    ".instances.count",
)
GPU_LIMIT = Rule(
    "!(has(self.instances) && has(self.instances.kind) && self.instances.kind == 'GPU')"
    " || (has(self.resources) && has(self.resources.limits)"
    " && self.resources.limits.exists(name, name.startsWith('nvidia.com/')))",
    lambda server: (
        server.get("instances", {}).get("kind") != "GPU"
        or any(name.startswith("nvidia.com/") for name in _limits(server))
    ),
    'instances on a GPU need one: set resources.limits["nvidia.com/gpu"], or instances.kind to CPU',
    ".instances.kind",
)
VERBATIM_SERVER = Rule(
    "!(has(self.model.format) && self.model.format == 'TritonRepository' && has(self.server)"
    " && (has(self.server.batching) || has(self.server.instances) || has(self.server.warmup)"
    " || has(self.server.config)))",
    lambda spec: (
        spec["model"].get("format") != "TritonRepository"
        or not {"batching", "instances", "warmup", "config"} & spec.get("server", {}).keys()
    ),
    "a TritonRepository is served as it is; remove batching, instances, warmup and config from server and say it in"
    " the repository's own config.pbtxt",
    ".server",
)
FLAG_NAME = Rule(
    "self.all(name, name.matches('^[a-z][-a-z0-9]*$'))",
    lambda flags: all(_matches("^[a-z][-a-z0-9]*$", name) for name in flags),
    "write flags in lower case without the leading dashes, for example log-verbose",
)

LABEL_KEYS = Rule(
    f"!self.exists(key, key.matches({_literal(_OWN_LABELS)}))",
    lambda found: not any(_matches(_OWN_LABELS, key) for key in found),
    "penstock.dev/* and app.kubernetes.io/name, component, managed-by and part-of are Penstock's own; use other keys",
)
METADATA_KEYS = Rule(
    f"self.all(key, size(key) <= 253 && key.matches({_literal(_KEY)}))",
    lambda found: all(len(key) <= 253 and _matches(_KEY, key) for key in found),
    "a key is a name of at most 63 letters, digits, dashes, dots and underscores, or a domain, a slash and such a name",
)
ENV_NAME = Rule(
    "!self.startsWith('PENSTOCK_')",
    lambda name: not name.startswith("PENSTOCK_"),
    "variables called PENSTOCK_… are Penstock's own; use another name",
)
AUTOSCALING_RANGE = Rule(
    "!has(self.min) || self.min <= self.max",
    lambda scaling: scaling.get("min", 1) <= scaling["max"],
    "min is above max; lower min or raise max",
    ".min",
)


def _between(low: str, high: str, message: str) -> Rule:
    """A number within both ends."""
    return Rule(
        f"double(string(self)) >= {low} && double(string(self)) <= {high}",
        lambda value: float(low) <= float(value) <= float(high),
        message,
    )


def _lasting(shortest: str, longest: str, message: str) -> Rule:
    """A duration within both ends."""
    return Rule(
        f"duration(self) >= duration('{shortest}') && duration(self) <= duration('{longest}')",
        lambda text: duration_seconds(shortest) <= duration_seconds(text) <= duration_seconds(longest),
        message,
    )


WEIGHT_RANGE = Rule(
    "double(string(self)) >= 0.1 && double(string(self)) <= 100.0 && string(self).matches('^[0-9]+([.][0-9])?$')",
    lambda value: 0.1 <= float(value) <= 100 and _matches("^[0-9]+([.][0-9])?$", str(value)),
    'weights are percents from 0.1 to 100 in steps of 0.1; write it like 10 or "0.5"',
)
TOLERANCE_RANGE = _between("1.0", "100.0", "a tolerance is a multiple of stable's value from 1 to 100")
PERCENT_RANGE = _between("0.01", "100.0", "write a percentage from 0.01 to 100")
QUANTILE_RANGE = _between("50.0", "99.9", "write a percentile from 50 to 99.9")
PROBABILITY_RANGE = _between("0.0001", "0.5", "write a probability from 0.0001 to 0.5")
CONFIDENCE_RANGE = _between("0.5", "0.9999", "write a probability from 0.5 to 0.9999")
HOLD_RANGE = _lasting("1s", "24h", "counters are read each second; write a time from 1s to 24h")
DEADLINE_RANGE = _lasting("10s", "24h", "write a time from 10s to 24h")
SUPERVISION_RANGE = _lasting("10s", "1h", "the operator renews four times within it; write a time from 10s to 1h")
STEPS_GROW = Rule(
    "self.map(step, double(string(step.weight))).isSorted()",
    lambda steps: [float(step["weight"]) for step in steps] == sorted(float(step["weight"]) for step in steps),
    "a step has less weight than the one before; order the steps by weight",
)
ONE_STICKINESS = Rule(
    "has(self.header) != has(self.cookie)",
    lambda sticky: ("header" in sticky) != ("cookie" in sticky),
    "write either header or cookie",
)
ROUTER_FIELDS = Rule(
    "!(has(self.provider) && self.provider == 'Service')"
    " || !(has(self.router) || has(self.limits) || has(self.stickiness))",
    lambda traffic: traffic.get("provider") != "Service" or not {"router", "limits", "stickiness"} & traffic.keys(),
    "router, limits and stickiness need provider: Router; remove them, or remove provider: Service",
    ".provider",
)
TIMEOUT_WITHIN_DRAIN = Rule(
    "!has(self.timeout) || duration(self.timeout) <= duration('1m') || has(self.router)"
    " || (has(self.provider) && self.provider == 'Service')",
    lambda traffic: (
        duration_seconds(traffic.get("timeout", "30s")) <= 60
        or "router" in traffic
        or traffic.get("provider") == "Service"
    ),
    "a pod of the default Router drains for 1m and would cut longer requests; write at most 1m, or name a Router of"
    " your own with a longer drain in traffic.router",
    ".timeout",
)
STRATEGY_FIELDS = Rule(
    "(!has(self.canary) || !has(self.strategy) || self.strategy == 'Canary')"
    " && (!has(self.blueGreen) || (has(self.strategy) && self.strategy == 'BlueGreen'))"
    " && (!has(self.shadow) || !has(self.strategy) || self.strategy != 'Immediate')",
    lambda rollout: (
        ("canary" not in rollout or rollout.get("strategy", "Canary") == "Canary")
        and ("blueGreen" not in rollout or rollout.get("strategy") == "BlueGreen")
        and ("shadow" not in rollout or rollout.get("strategy") != "Immediate")
    ),
    "canary belongs to strategy: Canary, blueGreen to strategy: BlueGreen, shadow to either; remove what the strategy"
    " does not use",
    ".strategy",
)
STRATEGY_OF_PROVIDER = Rule(
    "!(has(self.traffic) && has(self.traffic.provider) && self.traffic.provider == 'Service') || !has(self.rollout)"
    " || (!has(self.rollout.canary) && !has(self.rollout.shadow) && (!has(self.rollout.strategy)"
    " || self.rollout.strategy == 'Immediate' || (self.rollout.strategy == 'BlueGreen'"
    " && has(self.rollout.blueGreen) && has(self.rollout.blueGreen.autoPromote)"
    " && !self.rollout.blueGreen.autoPromote)))",
    lambda spec: spec.get("traffic", {}).get("provider") != "Service" or _fits_service(spec.get("rollout", {})),
    "provider: Service has no weights and no counters: it can do strategy: Immediate, or BlueGreen with"
    " blueGreen.autoPromote: false; change the strategy, or use provider: Router",
    ".rollout",
)


def _fits_service(rollout: Json) -> bool:
    if "canary" in rollout or "shadow" in rollout:
        return False
    strategy = rollout.get("strategy", "Immediate")
    asked = rollout.get("blueGreen", {}).get("autoPromote", True)
    return bool(strategy == "Immediate" or (strategy == "BlueGreen" and not asked))


def _names_queue(batching: Json) -> bool:
    long = any(duration_seconds(batching.get(name, "0s")) > 0 for name in ("maxQueueDelay", "queueTimeout"))
    return long or "maxQueueSize" in batching or bool(batching.get("preferredBatchSizes"))


BY_CEL = {rule.rule: rule for rule in (ONE_DAY, *vars().values()) if isinstance(rule, Rule)}
"""Every rule, found by its CEL."""
