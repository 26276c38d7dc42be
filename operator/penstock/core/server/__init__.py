"""Everything one revision needs to serve, and what its pods say when it does not."""

from .deployment import METRICS_PORT, Serving, deployment
from .failure import Failure, serving_failure
from .objects import config_map, disruption_budget, headless_service

__all__ = [
    "METRICS_PORT",
    "Failure",
    "Serving",
    "config_map",
    "deployment",
    "disruption_budget",
    "headless_service",
    "serving_failure",
]
