"""What a ModelDeployment must be beyond the types of its fields: every CEL rule, beside its twin in Python.

A rule refuses what can be known from the object alone, and its message names the way out. The twins make `penstock
validate` answer offline what the API server would; they see plain JSON that fits the schema, as the CEL does.
"""

import re
from typing import Any

from .base import Rule
from .units import duration_seconds

__all__ = [
    "AUTOSCALING_RANGE",
    "BATCHING_NEEDS_TWO",
    "DEPLOYMENT_NAME",
    "DIGEST_OF_URI",
    "DNS_LABEL",
    "ENV_NAME",
    "FLAG_NAME",
    "GPU_LIMIT",
    "LABEL_KEYS",
    "METADATA_KEYS",
    "NO_CREDENTIALS_FOR_CLAIM",
    "PREFERRED_WITHIN_MAXIMUM",
    "PREPARE_TIMEOUT",
    "QUEUE_NEEDS_BATCHING",
    "URI_CLEAN",
    "URI_FORM",
    "URI_WITHOUT_PARENTS",
    "VERBATIM_SERVER",
    "VERBATIM_TENSORS",
    "between",
    "matches",
]

Json = dict[str, Any]
DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_NAME = "^[a-z]([-a-z0-9]*[a-z0-9])?$"
_KEY = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
_URI = (
    r"^((oci|s3|gs|az|https)://[^/\s]+/[^\s]+|hf://[^/\s]+/[^/\s]+(/[^\s]*)?|models:/[^/\s@]+[/@][^/\s@]+"
    r"|pvc://[a-z0-9][-a-z0-9.]*(/[^\s]*)?)$"
)
_USER = "^[a-z0-9]+://[^/]*@"
_PARENT = r"/\.\.(/|$)"
_OWN_LABELS = "^(penstock\\.dev/.*|app\\.kubernetes\\.io/(name|component|managed-by|part-of))$"


def matches(pattern: str, text: str) -> bool:
    """As CEL's `matches`: found anywhere, `$` is the end of the text and not of a line."""
    return re.search(pattern.replace("$", r"\Z"), text, re.ASCII) is not None


def between(low: str, high: str, message: str) -> Rule:
    """A number within both ends."""
    return Rule(
        f"double(string(self)) >= {low} && double(string(self)) <= {high}",
        lambda value: float(low) <= float(value) <= float(high),
        message,
    )


def _literal(pattern: str) -> str:
    escaped = pattern.replace("\\", "\\\\")
    return f"'{escaped}'"


def _limits(server: Json) -> Json:
    found: Json = server.get("resources", {}).get("limits", {})
    return found


DEPLOYMENT_NAME = Rule(
    f"size(self.metadata.name) <= 40 && self.metadata.name.matches({_literal(_NAME)})",
    lambda root: len(root["metadata"]["name"]) <= 40 and matches(_NAME, root["metadata"]["name"]),
    "the name becomes part of Service and revision names: write at most 40 lower case letters, digits and dashes,"
    " a letter first, no dash last",
    ".metadata.name",
)

URI_FORM = Rule(
    f"self.matches({_literal(_URI)})",
    lambda uri: matches(_URI, uri),
    "write oci://host/repository:tag, s3://bucket/key, gs://bucket/key, az://container/path, https://host/path,"
    " hf://owner/name@revision, models:/name@alias, models:/name/version or pvc://claim/path",
)
URI_CLEAN = Rule(
    f"!self.matches({_literal(_USER)})",
    lambda uri: not matches(_USER, uri),
    "take user name and password out of the URI and name a Secret that holds them in credentialsSecretRef",
)
URI_WITHOUT_PARENTS = Rule(
    f"!self.matches({_literal(_PARENT)})",
    lambda uri: not matches(_PARENT, uri),
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
    lambda flags: all(matches("^[a-z][-a-z0-9]*$", name) for name in flags),
    "write flags in lower case without the leading dashes, for example log-verbose",
)

LABEL_KEYS = Rule(
    f"!self.exists(key, key.matches({_literal(_OWN_LABELS)}))",
    lambda found: not any(matches(_OWN_LABELS, key) for key in found),
    "penstock.dev/* and app.kubernetes.io/name, component, managed-by and part-of are Penstock's own; use other keys",
)
METADATA_KEYS = Rule(
    f"self.all(key, size(key) <= 253 && key.matches({_literal(_KEY)}))",
    lambda found: all(len(key) <= 253 and matches(_KEY, key) for key in found),
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


def _names_queue(batching: Json) -> bool:
    long = any(duration_seconds(batching.get(name, "0s")) > 0 for name in ("maxQueueDelay", "queueTimeout"))
    return long or "maxQueueSize" in batching or bool(batching.get("preferredBatchSizes"))
