"""Structured logs: one JSON object a line, for our loggers and for kopf's alike, without credentials.

Fields: `ts` (UTC, milliseconds), `level`, `logger`, `msg`, `exc` where there is one, and whatever the context and the
call add, such as `namespace`, `name`, `revision`.
"""

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

__all__ = ["JsonFormatter", "configure_logging", "log_context", "redacted"]

_context: ContextVar[Mapping[str, str]] = ContextVar("penstock_log_context")
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_KOPF = frozenset({"k8s_ref", "k8s_skip", "settings"})
_SECRETS = (
    (re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?)(?:(?:bearer|basic)\s+)?[^\s'\",}]+"), r"\1[redacted]"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), r"\1 [redacted]"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), "[redacted]"),
    (
        re.compile(
            r"(?i)(['\"]?\b(?:access_?token|refresh_?token|token|password|secret_?key|client_?secret)['\"]?\s*[:=]\s*['\"]?)[^\s'\",}&]+"
        ),
        r"\1[redacted]",
    ),
    (re.compile(r"(://[^/\s:@]+:)[^/\s@]+@"), r"\1[redacted]@"),
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL),
        "[redacted]",
    ),
)


def redacted(text: str) -> str:
    """`text` without anything that looks like a credential: headers, tokens, passwords, private keys.

    A last line of defence; nothing in Penstock logs a body or a header to begin with.
    """
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


@contextmanager
def log_context(**fields: str) -> Iterator[None]:
    """Add fields to every line logged inside, in this task and the tasks it starts."""
    token = _context.set({**_context.get({}), **fields})
    try:
        yield
    finally:
        _context.reset(token)


class JsonFormatter(logging.Formatter):
    """Renders a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {
            "ts": time,
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": redacted(record.getMessage()),
            **_context.get({}),
            **_object_fields(record),
        }
        for key, value in record.__dict__.items():
            if key not in _STANDARD and key not in _KOPF:
                line[key] = value if isinstance(value, (int, float, bool)) or value is None else redacted(str(value))
        if record.exc_info:
            line["exc"] = redacted(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def configure_logging(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send everything to `stream` (stderr) as JSON, replacing handlers that libraries have set.

    kopf's object loggers say on every event that they handled it, and aiohttp every scrape: both only from WARNING on
    unless `level` is DEBUG.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    quiet = logging.DEBUG if root.level <= logging.DEBUG else logging.WARNING
    for name in ("kopf.objects", "aiohttp.access", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(max(quiet, root.level))


def _object_fields(record: logging.LogRecord) -> dict[str, str]:
    """namespace and name of the object that kopf logs about."""
    reference = getattr(record, "k8s_ref", None)
    if not isinstance(reference, Mapping):
        return {}
    return {key: str(reference[key]) for key in ("kind", "namespace", "name") if reference.get(key)}
