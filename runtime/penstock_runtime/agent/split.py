"""TrafficSplit as the agent reads it: every field checked, since one bad route would freeze the table of all models."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .state import WHOLE

__all__ = ["Malformed", "Revision", "Shadow", "Split", "Supervision"]

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_UID = re.compile(r"[A-Za-z0-9-]{8,64}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_LONGEST = 1 << 53


class Malformed(ValueError):
    """A split that cannot be routed; the message names the field, what it is and what it should be."""


@dataclass(frozen=True)
class Revision:
    """A revision that the fleet keeps warm; with weight 0 it gets no request."""

    name: str
    model: str
    weight: int


@dataclass(frozen=True)
class Shadow:
    """A revision that gets copies of `share` (0.1 %) of the requests."""

    name: str
    share: int


@dataclass(frozen=True)
class Supervision:
    """The promise of the operator to renew; `renewed` is Unix time, `renew_time` the text it was read from."""

    timeout: float
    renew_time: str
    renewed: float
    keep: bool


@dataclass(frozen=True)
class Split:
    """The desired route of one model. Times are seconds."""

    name: str
    uid: str
    generation: int
    port: int
    stable: str | None
    revisions: tuple[Revision, ...]
    shadow: Shadow | None
    supervision: Supervision | None
    header: str | None
    cookie: str | None
    timeout: float
    max_request_bytes: int
    max_concurrent: int

    @classmethod
    def parse(cls, name: str, spec: Mapping[str, Any]) -> "Split":
        """The split of a TrafficSplit's spec; raises Malformed. Fields of a newer release are passed over."""
        fields = _Fields(spec)
        revisions = tuple(_revision(item) for item in fields.items("revisions"))
        split = cls(
            name=name,
            uid=fields.text("deploymentUid", _UID),
            generation=fields.number("generation", 1),
            port=fields.number("port", 1, 65535),
            stable=fields.optional_text("stable", _NAME),
            revisions=revisions,
            shadow=_shadow(fields.optional("shadow")),
            supervision=_supervision(fields.optional("supervision")),
            header=(fields.optional("stickiness") or _NOTHING).optional_text("header", _TOKEN),
            cookie=(fields.optional("stickiness") or _NOTHING).optional_text("cookie", _TOKEN),
            timeout=fields.number("timeoutMilliseconds", 1, 86_400_000) / 1000,
            max_request_bytes=fields.number("maxRequestBytes", 1),
            max_concurrent=fields.number("maxConcurrent", 1, (1 << 32) - 1),
        )
        split._check()
        return split

    def _check(self) -> None:
        names = [revision.name for revision in self.revisions]
        total = sum(revision.weight for revision in self.revisions)
        if len(set(names)) != len(names):
            raise Malformed(f"revisions name one twice ({', '.join(names)}); expected each once")
        if total not in (0, WHOLE):
            raise Malformed(f"the weights of revisions add up to {total}; expected {WHOLE}, or 0 where nothing serves")
        for field, named in (("stable", self.stable), ("shadow.name", self.shadow and self.shadow.name)):
            if named and named not in names:
                raise Malformed(f"{field} is {named}; expected one of revisions ({', '.join(names) or 'none'})")

    @property
    def weights(self) -> dict[str, int]:
        """Weights above 0, the candidate first: a growing weight then moves sticky clients one way only."""
        ordered = sorted(self.revisions, key=lambda revision: revision.name == self.stable)
        return {revision.name: revision.weight for revision in ordered if revision.weight}

    @property
    def sticky(self) -> bool:
        """Whether clients are bound to revisions."""
        return bool(self.header or self.cookie)


def _revision(fields: "_Fields") -> Revision:
    return Revision(fields.text("name", _NAME), fields.text("model", _MODEL), fields.number("weight", 0, WHOLE))


def _shadow(fields: "_Fields | None") -> Shadow | None:
    return Shadow(fields.text("name", _NAME), fields.number("share", 1, WHOLE)) if fields else None


def _supervision(fields: "_Fields | None") -> Supervision | None:
    if fields is None:
        return None
    text = fields.text("renewTime")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Malformed(f"{fields.path}renewTime is {text!r}; expected RFC 3339") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    timeout = fields.number("timeoutSeconds", 1, 86_400)
    return Supervision(timeout, text, moment.timestamp(), keep=fields.optional_text("onLoss") == "Keep")


class _Fields:
    """A JSON object whose fields are read by type; `path` leads to it in messages."""

    def __init__(self, found: Mapping[str, Any], path: str = "spec.") -> None:
        self._found = found
        self.path = path

    def number(self, name: str, least: int, most: int = _LONGEST) -> int:
        value = self._found.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise Malformed(f"{self.path}{name} is {value!r:.80}; expected an integer from {least} to {most}")
        return value

    def optional_text(self, name: str, pattern: re.Pattern[str] | None = None) -> str | None:
        return None if self._found.get(name) is None else self.text(name, pattern)

    def text(self, name: str, pattern: re.Pattern[str] | None = None) -> str:
        value = self._found.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= 253 or (pattern and not pattern.fullmatch(value)):
            expected = f"a text like {pattern.pattern}" if pattern else "a text"
            raise Malformed(f"{self.path}{name} is {value!r:.80}; expected {expected}")
        return value

    def optional(self, name: str) -> "_Fields | None":
        value = self._found.get(name)
        return None if value is None else self._object(name, value)

    def items(self, name: str) -> "list[_Fields]":
        values = self._found.get(name) or []
        if not isinstance(values, list):
            raise Malformed(f"{self.path}{name} is {values!r:.80}; expected a list")
        return [self._object(f"{name}[{index}]", value) for index, value in enumerate(values)]

    def _object(self, name: str, value: Any) -> "_Fields":
        if not isinstance(value, dict):
            raise Malformed(f"{self.path}{name} is {value!r:.80}; expected an object")
        return _Fields(value, f"{self.path}{name}.")


_NOTHING = _Fields({})
