"""The operator's settings, read once from its environment; the chart writes them there."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.api.units import quantity_value
from penstock.core.settings import Settings

__all__ = ["OperatorSettings", "read_settings"]

_BACKENDS = ("pytorch", "openvino", "tensorrt")
"""Those that may be in an image of their own."""


@dataclass(frozen=True)
class OperatorSettings:
    """`decisions` is what plan() sees of it."""

    decisions: Settings
    namespace: str
    identity: str
    """The pod's uid: a restarted container of the same pod takes its own lease again at once."""
    watch_namespaces: tuple[str, ...]
    """Empty: all of them."""
    log_level: str
    collect_artifacts: bool = False
    """The artifact store is the chart's own, so that what no record names may be removed from it."""
    workers: int = 8
    port: int = 8080


def read_settings(environment: Mapping[str, str] | None = None) -> OperatorSettings:
    """Settings from PENSTOCK_* variables; raises KeyError naming the variable that is missing."""
    found = os.environ if environment is None else environment
    registry = found.get("PENSTOCK_REGISTRY", "registry.penstock-system:5000")
    namespace = found.get("PENSTOCK_NAMESPACE", "penstock-system")
    return OperatorSettings(
        decisions=Settings(
            jobs_image=found["PENSTOCK_IMAGE_JOBS"],
            triton_image=found["PENSTOCK_IMAGE_TRITON"],
            registry=registry,
            plain_http=_words(found.get("PENSTOCK_PLAIN_HTTP", "")),
            image_pull_secrets=_words(found.get("PENSTOCK_IMAGE_PULL_SECRETS", "")),
            max_model_bytes=int(quantity_value(found.get("PENSTOCK_MAX_MODEL_SIZE", "10Gi"))),
            router_image=found.get("PENSTOCK_IMAGE_ROUTER", ""),
            convert_image=found.get("PENSTOCK_IMAGE_CONVERT", ""),
            tensorflow_image=found.get("PENSTOCK_IMAGE_TENSORFLOW", ""),
            server_images=_server_images(found),
            node_cache=found.get("PENSTOCK_NODE_CACHE", ""),
            namespace=namespace,
        ),
        namespace=namespace,
        identity=found["PENSTOCK_POD_UID"],
        watch_namespaces=_words(found.get("PENSTOCK_WATCH_NAMESPACES", "")),
        log_level=found.get("PENSTOCK_LOG_LEVEL", "INFO"),
        collect_artifacts=found.get("PENSTOCK_COLLECT_ARTIFACTS", "") == "true",
        port=int(found.get("PENSTOCK_PORT", "8080")),
    )


def _server_images(environment: Mapping[str, str]) -> dict[str, str]:
    """Images by backend."""
    given = {backend: environment.get(f"PENSTOCK_IMAGE_TRITON_{backend.upper()}", "") for backend in _BACKENDS}
    return {backend: image for backend, image in given.items() if image}


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
