"""The frames of Envoy's documents, and how their parts are written."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "ATTEST",
    "MODEL_HEADER",
    "NOTE",
    "REVISION_HEADER",
    "ROUTES",
    "attestation",
    "compact",
    "resources_document",
    "routes_document",
    "typed",
]

MODEL_HEADER = "x-penstock-model"
"""Says which model a request is for; set by the listener it came through, whatever the client wrote."""
ATTEST = "attest"
"""The virtual host that tells which document is in force; no uid is that short."""
REVISION_HEADER = "x-penstock-revision"
NOTE = "penstock"
"""Key of metadata: of a virtual host, the state it stands for; of a cluster, its revision."""
ROUTES = "routes"
_TYPE = "type.googleapis.com/envoy."


def compact(value: Any) -> str:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))


def typed(name: str, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A message with its type, `name` without `type.googleapis.com/envoy.`."""
    return {"@type": f"{_TYPE}{name}", **(fields or {})}


def resources_document(version: int, parts: Iterable[str]) -> str:
    """CDS or LDS: a list of whole resources."""
    return f'{{"version_info":"{version}","resources":[{",".join(parts)}]}}'


def routes_document(version: int, parts: Iterable[str]) -> str:
    """RDS: one route table of virtual hosts, each the routes of one model.

    `validate_clusters` makes Envoy refuse a route to a cluster that it lacks, instead of answering 503 by it.
    """
    hosts = ",".join((compact(attestation(version)), *parts))
    head = compact(
        typed(
            "config.route.v3.RouteConfiguration",
            {
                "name": ROUTES,
                "vhost_header": MODEL_HEADER,
                "validate_clusters": True,
                "request_headers_to_remove": [MODEL_HEADER],
                "response_headers_to_add": [_told_revision()],
            },
        )
    )
    return resources_document(version, (f'{head[:-1]},"virtual_hosts":[{hosts}]}}',))


def _told_revision() -> dict[str, Any]:
    """Every answer of a revision says which one it is of, those that Envoy gives in its place too."""
    value = f"%CLUSTER_METADATA({NOTE}:revision)%"
    return {"header": {"key": REVISION_HEADER, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def attestation(version: int) -> dict[str, Any]:
    """Answers with the version of the document it stands in: proof that Envoy routes by it."""
    body = compact({"version": version})
    answer = {"status": 200, "body": {"inline_string": body}}
    return {"name": ATTEST, "domains": [ATTEST], "routes": [{"match": {"prefix": "/"}, "direct_response": answer}]}
