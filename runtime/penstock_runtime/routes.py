"""Which way a format goes: served as it is or converted, and by which image it has to be opened. Nothing is loaded."""

from .finding import Asked, SourceTree
from .formats.detect import Detected, look, opener_of

__all__ = ["find_route", "is_served_as_it_is"]

_AS_IT_IS = frozenset({"ONNX", "TritonRepository", "OpenVINO", "TensorRT", "Treelite"})
_AS_IT_IS_IF_ASKED = frozenset({"TorchScript", "XGBoost", "LightGBM"})
"""Served by backends of their own where spec.model.convert is Never."""
_USUAL_SERVER = frozenset({"ONNX", "TritonRepository"})


def is_served_as_it_is(source_format: str, asked: Asked) -> bool:
    """Whether nothing has to be converted."""
    return source_format in _AS_IT_IS or (source_format in _AS_IT_IS_IF_ASKED and asked.convert == "Never")


def find_route(tree: SourceTree, asked: Asked) -> tuple[str, dict[str, str] | None]:
    """The format, and what the Job has to be started anew with where it cannot open or measure that; raises Failure.

    The server that measures is chosen before the format is known, so a format of another server needs another Job.
    """
    found = look(tree, asked)
    as_it_is = is_served_as_it_is(found.format, asked)
    opener = _opener(tree, found, as_it_is=as_it_is)
    other_server = as_it_is and found.format not in _USUAL_SERVER
    unprepared = asked.server is not None and asked.format == "Auto" and other_server
    if opener in ("Basic", asked.opener) and not unprepared:
        return found.format, None
    return found.format, {"format": found.format, "opener": asked.opener if opener == "Basic" else opener}


def _opener(tree: SourceTree, found: Detected, *, as_it_is: bool) -> str:
    """What is served as it is can be described without its framework, all but TorchScript."""
    return "Basic" if as_it_is and found.format != "TorchScript" else opener_of(tree, found)
