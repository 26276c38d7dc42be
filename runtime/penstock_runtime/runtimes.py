"""What the onnxruntime of each Triton release can read: data, found by loading one-node models into each wheel.

The jobs image carries the onnxruntime of `TARGET`, so what inspection runs is what serving pods run.
"""

from dataclasses import dataclass

__all__ = ["CEILINGS", "TARGET", "Ceiling"]


@dataclass(frozen=True)
class Ceiling:
    """The newest of each that the runtime accepts, and the Triton release it came with."""

    opset: int
    ml_opset: int
    ir_version: int
    triton: str


CEILINGS = {
    "1.27": Ceiling(opset=26, ml_opset=5, ir_version=13, triton="26.07"),
    "1.31": Ceiling(opset=26, ml_opset=5, ir_version=13, triton="later than 26.07"),
}
TARGET = "1.27"
