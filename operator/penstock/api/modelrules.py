"""CEL rules of spec.model, spec.optimize and spec.gates, each beside its twin in Python as in `rules.py`."""

from typing import Any

from .base import Rule
from .rules import between
from .units import duration_seconds

__all__ = [
    "ACCURACY_NAMES_A_BOUND",
    "CALIBRATION_IS_USED",
    "DROP_RANGE",
    "DVC_POINTER",
    "ENTRYPOINT_NEEDS_TRUST",
    "ENTRYPOINT_OF_WEIGHTS",
    "GATES_NEED_DATASET",
    "LATENCY_NAMES_A_BOUND",
    "LATENCY_RANGE",
    "METRIC_OR_IMAGE",
    "MOUNT_NEEDS_CLAIM",
    "PRUNE_RANGE",
    "REFRESH_OF_PIN",
    "REFRESH_RANGE",
    "SHARE_RANGE",
    "SPEEDUP_RANGE",
    "THROUGHPUT_RANGE",
    "WEIGHTS_NEED_ENTRYPOINT",
]

Json = dict[str, Any]
_WEIGHTS = ("SafeTensors", "StateDict")


SHARE_RANGE = between("0.0", "1.0", 'write a share of the rows from 0 to 1, like "0.99"')
PRUNE_RANGE = between("0.01", "0.95", 'write a share of the weights from 0.01 to 0.95, like "0.3"')
SPEEDUP_RANGE = between("1.0", "100.0", 'write how many times faster, from 1 to 100, like "1.2"')
DROP_RANGE = between("0.0", "100.0", 'write points from 0 to 100, like "0.5"')
THROUGHPUT_RANGE = between("0.001", "999999.0", "write rows per second from 0.001 to 999999")
LATENCY_RANGE = Rule(
    "duration(self) >= duration('1ms') && duration(self) <= duration('10m')",
    lambda text: 0.001 <= duration_seconds(text) <= 600,
    "write a latency from 1ms to 10m",
)
REFRESH_RANGE = Rule(
    "duration(self) >= duration('1m')",
    lambda text: duration_seconds(text) >= 60,
    "each look at the source is a small Job; write at least 1m",
)
MOUNT_NEEDS_CLAIM = Rule(
    "!has(self.delivery) || self.delivery == 'Copy' || self.uri.startsWith('pvc://')",
    lambda model: model.get("delivery", "Copy") == "Copy" or model["uri"].startswith("pvc://"),
    "only a PersistentVolumeClaim can be mounted; write pvc://claim/path, or delivery: Copy",
    ".delivery",
)
REFRESH_OF_PIN = Rule(
    "!has(self.refresh) || !has(self.digest)",
    lambda model: "refresh" not in model or "digest" not in model,
    "digest pins the content, so it never changes; remove refresh or digest",
    ".refresh",
)
ENTRYPOINT_OF_WEIGHTS = Rule(
    "!has(self.entrypoint) || !has(self.format) || self.format in ['Auto', 'SafeTensors', 'StateDict', 'TorchServe']",
    lambda model: "entrypoint" not in model or model.get("format", "Auto") in ("Auto", *_WEIGHTS, "TorchServe"),
    "an entrypoint makes the module for bare weights; remove it, or write format: SafeTensors or StateDict",
    ".entrypoint",
)
WEIGHTS_NEED_ENTRYPOINT = Rule(
    "!has(self.format) || !(self.format in ['SafeTensors', 'StateDict']) || has(self.entrypoint)",
    lambda model: model.get("format") not in _WEIGHTS or "entrypoint" in model,
    "weights alone are no model: name the factory that makes the module in entrypoint, as module:factory",
    ".format",
)
ENTRYPOINT_NEEDS_TRUST = Rule(
    "!has(self.entrypoint) || (has(self.trust) && self.trust == 'Code')",
    lambda model: "entrypoint" not in model or model.get("trust") == "Code",
    "an entrypoint is code of the content, run when it is converted; set trust: Code if you trust its author",
    ".entrypoint",
)
DVC_POINTER = Rule(
    "has(self.dvcRemote) == self.uri.endsWith('.dvc')",
    lambda model: ("dvcRemote" in model) == model["uri"].endswith(".dvc"),
    "a .dvc file points into a remote: write uri of the .dvc file and dvcRemote together",
    ".dvcRemote",
)
CALIBRATION_IS_USED = Rule(
    "!has(self.calibration) || has(self.hook) || (has(self.precision) && self.precision in ['Auto', 'INT8'])",
    lambda optimize: (
        "calibration" not in optimize or "hook" in optimize or optimize.get("precision") in ("Auto", "INT8")
    ),
    "calibration is for precision: Auto or INT8; write one of them, or remove calibration",
    ".calibration",
)
METRIC_OR_IMAGE = Rule(
    "has(self.metric) != has(self.image) && (has(self.image) || !has(self.command))",
    lambda gate: ("metric" in gate) != ("image" in gate) and ("image" in gate or "command" not in gate),
    "write either metric, or image (and its command)",
)
ACCURACY_NAMES_A_BOUND = Rule(
    "has(self.minimum) || has(self.maxDropPercent)",
    lambda gate: "minimum" in gate or "maxDropPercent" in gate,
    "write minimum, maxDropPercent or both",
)
LATENCY_NAMES_A_BOUND = Rule(
    "has(self.p50) || has(self.p95) || has(self.p99)",
    lambda gate: bool({"p50", "p95", "p99"} & gate.keys()),
    "write one or more of p50, p95 and p99",
)
GATES_NEED_DATASET = Rule(
    "has(self.dataset) || !(has(self.parity) || has(self.accuracy))",
    lambda gates: "dataset" in gates or not {"parity", "accuracy"} & gates.keys(),
    "parity and accuracy are measured on your data: write dataset.uri",
    ".dataset",
)
