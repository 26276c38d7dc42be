"""CEL rules of `rollout.capacity: Replace`, each beside its twin in Python as in `rules.py`."""

from typing import Any

from .base import Rule

__all__ = [
    "REPLACE_AUTOSCALING",
    "REPLACE_FIELD",
    "REPLACE_KEEPS",
    "REPLACE_PROVIDER",
    "REPLACE_SHADOW",
    "REPLACE_STEPS",
]

Json = dict[str, Any]
_REPLACES = "has(self.capacity) && self.capacity == 'Replace'"
_SPEC_REPLACES = "has(self.rollout.capacity) && self.rollout.capacity == 'Replace'"


def _replaces(rollout: Json) -> bool:
    return bool(rollout.get("capacity") == "Replace")


REPLACE_FIELD = Rule(
    f"!has(self.replace) || ({_REPLACES})",
    lambda rollout: "replace" not in rollout or _replaces(rollout),
    "replace says how pods change hands with capacity: Replace; remove it, or set capacity: Replace",
    ".replace",
)
REPLACE_KEEPS = Rule(
    f"!({_REPLACES}) || (has(self.supervision) && has(self.supervision.onLoss) && self.supervision.onLoss == 'Keep')",
    lambda rollout: not _replaces(rollout) or rollout.get("supervision", {}).get("onLoss") == "Keep",
    "with capacity: Replace stable has given pods up, and routers that went to it by themselves would find none or too"
    " few; set supervision.onLoss: Keep",
    ".capacity",
)
REPLACE_STEPS = Rule(
    f"!({_REPLACES}) || (!has(self.canary) && !has(self.blueGreen) && (!has(self.strategy)"
    " || self.strategy == 'Canary'))",
    lambda rollout: (
        not _replaces(rollout)
        or (not {"canary", "blueGreen"} & rollout.keys() and rollout.get("strategy", "Canary") == "Canary")
    ),
    "with capacity: Replace every pod is a step of a canary, its weight the share of the pods; remove canary, blueGreen"
    " and other strategies, and say in replace.hold how long each share is observed (analysis.mode: Observe: without"
    " taking anything back)",
    ".capacity",
)
REPLACE_SHADOW = Rule(
    f"!({_REPLACES}) || !has(self.shadow)",
    lambda rollout: not _replaces(rollout) or "shadow" not in rollout,
    "with capacity: Replace no candidate runs beside a whole stable, so there is nobody to copy requests to; remove"
    " shadow, or capacity: Replace",
    ".shadow",
)
REPLACE_AUTOSCALING = Rule(
    f"!(has(self.rollout) && {_SPEC_REPLACES}) || !has(self.autoscaling)",
    lambda spec: not _replaces(spec.get("rollout", {})) or "autoscaling" not in spec,
    "capacity: Replace counts the pods that there is room for, and an autoscaler would ask for more; remove autoscaling"
    " and set replicas, or remove rollout.capacity",
    ".autoscaling",
)
REPLACE_PROVIDER = Rule(
    f"!(has(self.rollout) && {_SPEC_REPLACES}) || !has(self.traffic) || !has(self.traffic.provider)"
    " || self.traffic.provider == 'Router'",
    lambda spec: (
        not _replaces(spec.get("rollout", {})) or spec.get("traffic", {}).get("provider", "Router") == "Router"
    ),
    "capacity: Replace needs routers, which follow the pods and answer 503 with Retry-After while none is there; use"
    " provider: Router, or remove rollout.capacity",
    ".traffic",
)
