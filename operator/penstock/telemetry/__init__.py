"""What is told to the operators of the operator: metrics, and logs of one JSON object a line."""

from .logs import JsonFormatter, configure_logging, log_context, redacted
from .metrics import METRICS_CONTENT_TYPE, Outcome, Telemetry

__all__ = [
    "METRICS_CONTENT_TYPE",
    "JsonFormatter",
    "Outcome",
    "Telemetry",
    "configure_logging",
    "log_context",
    "redacted",
]
