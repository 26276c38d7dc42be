"""ONNX's protobuf schema without the rest of the `onnx` package, whose import takes longer than opening most models."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

__all__ = ["schema"]

_MODULE = "onnx.onnx_ml_pb2"


def _load() -> Any:
    """The one generated module, loaded by file, under the name by which `onnx` itself would find it later."""
    if _MODULE in sys.modules:
        return sys.modules[_MODULE]
    package = importlib.util.find_spec("onnx")
    if package is None or not package.submodule_search_locations:
        raise ImportError("onnx is not installed; it holds the schema of ONNX files")
    spec = importlib.util.spec_from_file_location(
        _MODULE, Path(package.submodule_search_locations[0], "onnx_ml_pb2.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module


schema: Any = _load()
"""The generated module: message classes and enum values by name."""
