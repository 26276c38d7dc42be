"""Which way a format goes: served as it is or converted, and by which image it has to be opened. Nothing is loaded."""

from .finding import Asked, SourceTree
from .formats.detect import Detected, look, opener_of

__all__ = ["find_route", "is_compared", "is_served_as_it_is"]

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
    opener = _opener(tree, found, asked, as_it_is=as_it_is)
    other_server = as_it_is and found.format not in _USUAL_SERVER
    unprepared = asked.server is not None and asked.format == "Auto" and other_server
    if opener in ("Basic", asked.opener) and not unprepared:
        return found.format, None
    return found.format, {"format": found.format, "opener": asked.opener if opener == "Basic" else opener}


def is_compared(asked: Asked) -> bool:
    """Whether a gate asks for the source framework's own answers."""
    return "parity" in asked.gates or "maxDropPercent" in asked.gates.get("accuracy", {})


def _opener(tree: SourceTree, found: Detected, asked: Asked, *, as_it_is: bool) -> str:
    """What is served as it is can be described without its framework, all but TorchScript; comparing needs it."""
    described = as_it_is and found.format != "TorchScript"
    compared = found.format in _AS_IT_IS_IF_ASKED and is_compared(asked)
    return "Basic" if described and not compared else opener_of(tree, found)
