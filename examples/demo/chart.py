"""Penstock itself: the chart, with the images built here or those of REGISTRY=."""

import os
from collections.abc import Mapping

from hack.cluster.settings import CHECKOUT

from .cluster import IMAGES, Cluster
from .screen import DemoError

__all__ = ["SYSTEM_NAMESPACE", "image_values", "install_chart", "registry_images"]

SYSTEM_NAMESPACE = "penstock-system"
_MORE = {
    "convert": "convert",
    "tensorflow": "tensorflow",
    "triton-torch": "tritonTorch",
    "triton-openvino": "tritonOpenVINO",
}
"""What opens and serves other formats than ONNX and trees, by the name of its chart value."""


def install_chart(cluster: Cluster, values: Mapping[str, str]) -> None:
    """`helm upgrade --install`, waiting until operator and registry are ready."""
    settings = [f"--set-string={name}={value}" for name, value in values.items()]
    if cluster.local:
        settings.append("--set=registry.persistence.enabled=false")
    cluster.call(
        *(cluster.helm, "upgrade", "--install", "penstock", str(CHECKOUT / "helm" / "penstock")),
        *("--namespace", SYSTEM_NAMESPACE, "--create-namespace", "--wait", "--timeout", "4m"),
        *settings,
    )


def image_values(images: Mapping[str, str]) -> dict[str, str]:
    """Chart values for image references as `hack/images` writes them."""
    missing = [name for name in IMAGES if name not in images]
    if missing:
        raise DemoError(f"build/images.json names no image for {', '.join(missing)}; run `make images`.")
    values: dict[str, str] = {}
    for name, value in {**dict(zip(IMAGES, IMAGES, strict=True)), **_MORE}.items():
        repository, _, tag = images.get(name, "").rpartition(":")
        if tag:
            values |= {f"images.{value}.repository": repository, f"images.{value}.tag": tag}
    return values


def registry_images(version: str) -> dict[str, str]:
    """References of what `make images REGISTRY=… PUSH=1` has pushed; raises DemoError without REGISTRY."""
    registry = os.environ.get("REGISTRY", "").rstrip("/")
    if not registry:
        raise DemoError(
            "CLUSTER=existing needs REGISTRY=host/path, to which `make images REGISTRY=host/path PUSH=1` has pushed."
        )
    return {name: f"{registry}/penstock-{name}:{version}" for name in (*IMAGES, *_MORE)}
