"""Which images a preparation needs beside the jobs image, or the sentence about the one that there is not."""

from collections.abc import Mapping
from dataclasses import replace

from penstock.api.facts import ModelFormat
from penstock.api.model import SourceFormat

from .modelrepo import backend_for
from .pipeline import Task, opener_image
from .serverimages import missing_backend
from .settings import Settings

__all__ = ["choose_images", "served_format"]

_OPENER_VALUES = {"Basic": "images.jobs", "Convert": "images.convert", "TensorFlow": "images.tensorflow"}
_KEPT: Mapping[SourceFormat, ModelFormat] = {"OpenVINO": "OpenVINO", "TensorRT": "TensorRT", "Treelite": "Treelite"}
_UNLESS_CONVERTED: Mapping[SourceFormat, ModelFormat] = {
    "TorchScript": "TorchScript",
    "XGBoost": "XGBoost",
    "LightGBM": "LightGBM",
}


def choose_images(task: Task, settings: Settings) -> Task | str:
    """The task with the server's image, or why this installation cannot do it."""
    if not opener_image(task, settings):
        value = _OPENER_VALUES[task.opener]
        return (
            f"content of format {task.format} is opened by the {task.opener} image, and this installation has none;"
            f" set the chart's {value}.repository"
        )
    return _with_server(task, settings) if task.is_measured else task


def _with_server(task: Task, settings: Settings) -> Task | str:
    written = task.server.image if task.server else None
    backend = backend_for(served_format(task.format, task.model.convert))
    image = written or settings.image_with(backend.name if backend else "")
    if backend and missing_backend(task.server, served_format(task.format, task.model.convert), settings):
        return (
            f"the gates measure {task.format} in Triton's {backend.name} backend, and this installation has no image"
            f" with it; set the chart's {backend.image_value}.repository, or name an image in spec.server.image"
        )
    return replace(task, server_image=image)


def served_format(source: SourceFormat, convert: str | None) -> ModelFormat:
    """The format that is served, as far as it can be told before the content is opened: most become ONNX."""
    return _KEPT.get(source) or (_UNLESS_CONVERTED.get(source) if convert == "Never" else None) or "ONNX"
