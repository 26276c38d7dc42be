"""CEL rules of rollouts, traffic, Routers and TrafficSplits, each beside its twin in Python as in `rules.py`."""

from typing import Any

from .base import Rule
from .rules import DEPLOYMENT_NAME, between, matches
from .units import duration_seconds, quantity_value

__all__ = [
    "CONFIDENCE_RANGE",
    "DEADLINE_RANGE",
    "DRAIN_RANGE",
    "GATEWAYS_AND_HOSTNAMES",
    "HOLD_RANGE",
    "HOSTNAMES_APART",
    "LISTENERS_APART",
    "ONE_STICKINESS",
    "PERCENT_RANGE",
    "PROBABILITY_RANGE",
    "QUANTILE_RANGE",
    "REQUEST_SIZE",
    "REQUEST_TIMEOUT",
    "ROUTER_FIELDS",
    "ROUTER_NAME",
    "SPLIT_GENERATION_GROWS",
    "SPLIT_NAME",
    "SPLIT_REVISIONS",
    "SPLIT_SHADOW",
    "SPLIT_STABLE",
    "SPLIT_WEIGHTS",
    "STEPS_GROW",
    "STRATEGY_FIELDS",
    "STRATEGY_OF_PROVIDER",
    "SUPERVISION_RANGE",
    "TIMEOUT_WITHIN_DRAIN",
    "TOLERANCE_RANGE",
    "WEIGHT_RANGE",
]

Json = dict[str, Any]


def _lasting(shortest: str, longest: str, message: str) -> Rule:
    """A duration within both ends."""
    return Rule(
        f"duration(self) >= duration('{shortest}') && duration(self) <= duration('{longest}')",
        lambda text: duration_seconds(shortest) <= duration_seconds(text) <= duration_seconds(longest),
        message,
    )


WEIGHT_RANGE = Rule(
    "double(string(self)) >= 0.1 && double(string(self)) <= 100.0 && string(self).matches('^[0-9]+([.][0-9])?$')",
    lambda value: 0.1 <= float(value) <= 100 and matches("^[0-9]+([.][0-9])?$", str(value)),
    'weights are percents from 0.1 to 100 in steps of 0.1; write it like 10 or "0.5"',
)
TOLERANCE_RANGE = between("1.0", "100.0", "a tolerance is a multiple of stable's value from 1 to 100")
PERCENT_RANGE = between("0.01", "100.0", "write a percentage from 0.01 to 100")
QUANTILE_RANGE = between("50.0", "99.9", "write a percentile from 50 to 99.9")
PROBABILITY_RANGE = between("0.0001", "0.5", "write a probability from 0.0001 to 0.5")
CONFIDENCE_RANGE = between("0.5", "0.9999", "write a probability from 0.5 to 0.9999")
HOLD_RANGE = _lasting("1s", "24h", "counters are read each second; write a time from 1s to 24h")
DEADLINE_RANGE = _lasting("10s", "24h", "write a time from 10s to 24h")
SUPERVISION_RANGE = _lasting("10s", "1h", "the operator renews four times within it; write a time from 10s to 1h")
STEPS_GROW = Rule(
    "self.map(step, double(string(step.weight))).isSorted()",
    lambda steps: [float(step["weight"]) for step in steps] == sorted(float(step["weight"]) for step in steps),
    "a step has less weight than the one before; order the steps by weight",
)
REQUEST_TIMEOUT = Rule(
    "duration(self) >= duration('1s') && duration(self) <= duration('1h')",
    lambda text: 1 <= duration_seconds(text) <= 3600,
    "pods that go away wait this long for their last requests; write a time from 1s to 1h",
)
REQUEST_SIZE = Rule(
    "quantity(string(self)).compareTo(quantity('1Ki')) >= 0 && quantity(string(self)).compareTo(quantity('1Ti')) <= 0",
    lambda size: 2**10 <= quantity_value(size) <= 2**40,
    "write a size from 1Ki to 1Ti",
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
_SAME_GATEWAY = (
    "other.name == one.name && ((!has(other.__namespace__) && !has(one.__namespace__))"
    " || (has(other.__namespace__) && has(one.__namespace__) && other.__namespace__ == one.__namespace__))"
)
LISTENERS_APART = Rule(
    f"self.all(one, self.exists_one(other, {_SAME_GATEWAY}) || (has(one.sectionName)"
    f" && self.exists_one(other, {_SAME_GATEWAY} && has(other.sectionName) && other.sectionName == one.sectionName)))",
    lambda parents: all(_stands_apart(one, parents) for one in parents),
    "one Gateway stands here twice; keep one of them, or name another listener of it in each sectionName",
)
GATEWAYS_AND_HOSTNAMES = Rule(
    "(has(self.parentRefs) && size(self.parentRefs) > 0) == ((has(self.hostnames) && size(self.hostnames) > 0)"
    " || (has(self.grpcHostnames) && size(self.grpcHostnames) > 0))",
    lambda traffic: bool(traffic.get("parentRefs")) == bool(traffic.get("hostnames") or traffic.get("grpcHostnames")),
    "parentRefs names Gateways, hostnames and grpcHostnames what the model is called there: write both sides or none;"
    " without a name all models of a Gateway would answer to the same address",
    ".parentRefs",
)
HOSTNAMES_APART = Rule(
    "!has(self.hostnames) || !has(self.grpcHostnames) || !self.hostnames.exists(one, self.grpcHostnames.exists(other,"
    " one == other || (one.startsWith('*.') && other.endsWith(one.substring(1)))"
    " || (other.startsWith('*.') && one.endsWith(other.substring(1)))))",
    lambda traffic: (
        not any(
            _covers(one, other) or _covers(other, one)
            for one in traffic.get("hostnames", ())
            for other in traffic.get("grpcHostnames", ())
        )
    ),
    "a Gateway gives one name to HTTP or to gRPC and leaves out the other route; write different names in hostnames"
    " and grpcHostnames",
    ".grpcHostnames",
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

DRAIN_RANGE = _lasting("1s", "1h", "a pod that goes away serves this long; write a time from 1s to 1h")
ROUTER_NAME = Rule(
    DEPLOYMENT_NAME.rule,
    DEPLOYMENT_NAME.holds,
    "the name becomes part of the names of the fleet's objects: write at most 40 lower case letters, digits and"
    " dashes, a letter first, no dash last",
    ".metadata.name",
)

SPLIT_NAME = Rule(
    "self.metadata.name == self.spec.deployment",
    lambda root: bool(root["metadata"]["name"] == root["spec"]["deployment"]),
    "a split carries the name of its ModelDeployment, so that two of them can never route the same model",
    ".metadata.name",
)
SPLIT_REVISIONS = Rule(
    "self.revisions.all(item, item.name.startsWith(self.deployment + '-'))",
    lambda split: all(item["name"].startswith(split["deployment"] + "-") for item in split["revisions"]),
    "a revision of another ModelDeployment; requests go to revisions of the split's own alone",
    ".revisions",
)
SPLIT_WEIGHTS = Rule(
    "self.revisions.map(item, item.weight).sum() in [0, 1000]",
    lambda split: sum(item["weight"] for item in split["revisions"]) in (0, 1000),
    "weights are in 0.1 % and add up to 1000, or to 0 where nothing serves",
    ".revisions",
)
SPLIT_STABLE = Rule(
    "!has(self.stable) || self.revisions.exists(item, item.name == self.stable)",
    lambda split: "stable" not in split or any(item["name"] == split["stable"] for item in split["revisions"]),
    "stable is none of the revisions; name it there, with weight 0 if it gets no requests now",
    ".stable",
)
SPLIT_SHADOW = Rule(
    "!has(self.shadow) || self.revisions.exists(item, item.name == self.shadow.name)",
    lambda split: "shadow" not in split or any(i["name"] == split["shadow"]["name"] for i in split["revisions"]),
    "the shadowed revision is none of the revisions; name it there, with weight 0",
    ".shadow",
)
SPLIT_GENERATION_GROWS = Rule(
    "self.deploymentUid != oldSelf.deploymentUid || self.generation >= oldSelf.generation",
    lambda _: True,
    "an older generation than the stored one: somebody else has written this split since",
    ".generation",
)
"""Compares with what is stored, so that a leader of yesterday writes nothing; nothing is stored offline."""


def _fits_service(rollout: Json) -> bool:
    if "canary" in rollout or "shadow" in rollout:
        return False
    strategy = rollout.get("strategy", "Immediate")
    asked = rollout.get("blueGreen", {}).get("autoPromote", True)
    return bool(strategy == "Immediate" or (strategy == "BlueGreen" and not asked))


def _stands_apart(one: Json, parents: list[Json]) -> bool:
    """Whether it is its Gateway's only entry, or names a listener that no other entry names."""
    same = [other for other in parents if _gateway(other) == _gateway(one)]
    named = [other for other in same if other.get("sectionName") == one.get("sectionName")]
    return len(same) == 1 or ("sectionName" in one and len(named) == 1)


def _gateway(parent: Json) -> tuple[str, str]:
    return parent["name"], parent.get("namespace", "")


def _covers(pattern: str, name: str) -> bool:
    return pattern == name or (pattern.startswith("*.") and name.endswith(pattern[1:]))
