"""Which candidates suit a network: measured rules, not a search.

- Convolutions want static INT8 with calibrated ranges. Dynamic INT8 makes them five times slower, so it is never tried.
- MatMul and Gemm want dynamic INT8, restricted to them: as fast as static, with a sixth of its error.
- FP16 makes nothing faster on a CPU, so only who asks for it by name gets it tried.
- Optimizing the graph offline gains what onnxruntime does anyway when it loads; Auto measures it all the same.
"""

from dataclasses import dataclass

from .isa import GPU, Isa
from .network import Network

__all__ = ["Recipe", "Refusal", "plan_candidates"]

_PER_CHANNEL_SINCE = 13
_MOSTLY = 0.5


@dataclass(frozen=True)
class Recipe:
    """One way to change a model; `excluded` names layers that stay as they are."""

    name: str
    precision: str | None
    signed_activations: bool = False
    seven_bits: bool = False
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """A candidate that cannot be made of this network, and why.

    `wants_calibration`: with such data it could. `needless`: there is nothing in the network to make it of, so that
    nobody misses it.
    """

    name: str
    precision: str
    why: str
    wants_calibration: bool = False
    needless: bool = False


def plan_candidates(
    network: Network, precision: str, isa: Isa, *, calibrated: bool
) -> tuple[list[Recipe], list[Refusal]]:
    """What to try for spec.optimize.precision, and what not to."""
    if precision == "FP16":
        return _half(network)
    if precision == "INT8":
        return _int8(network, isa, calibrated=calibrated)
    if precision == "Auto":
        recipes, refusals = _int8(network, isa, calibrated=calibrated)
        return [Recipe("graph", None), *recipes], refusals
    return [], []


def _half(network: Network) -> tuple[list[Recipe], list[Refusal]]:
    if network.half:
        return [], [Refusal("fp16", "FP16", "the model is FP16 already", needless=True)]
    if not network.layers:
        why = "the model has no Conv, MatMul or Gemm with FP32 weights, which FP16 would make smaller"
        return [], [Refusal("fp16", "FP16", why, needless=True)]
    return [Recipe("fp16", "FP16")], []


def _int8(network: Network, isa: Isa, *, calibrated: bool) -> tuple[list[Recipe], list[Refusal]]:
    if network.quantized:
        return [], [Refusal("int8", "INT8", "the model is INT8 already", needless=True)]
    if not network.layers:
        why = "the model has no Conv, MatMul or Gemm with FP32 weights, which INT8 would make faster"
        return [], [Refusal("int8", "INT8", why, needless=True)]
    recipes, refusals = [], []
    if network.dense_share > _MOSTLY and isa != GPU:
        recipes.append(Recipe("dynamic-int8", "INT8", seven_bits=isa.seven_bits))
    if network.convolutional or isa == GPU:
        refusal = _static_refusal(network, calibrated=calibrated)
        if refusal is None:
            excluded = network.small_edges
            recipes.append(Recipe("static-int8", "INT8", isa.signed_activations, isa.seven_bits, excluded))
        elif not recipes or calibrated:
            refusals.append(refusal)
    return recipes, refusals


def _static_refusal(network: Network, *, calibrated: bool) -> Refusal | None:
    name, precision = "static-int8", "INT8"
    if network.opset < _PER_CHANNEL_SINCE:
        why = (
            f"the model has opset {network.opset}; INT8 with a scale for each channel needs {_PER_CHANNEL_SINCE} or "
            "newer: export it with opset 20"
        )
        return Refusal(name, precision, why)
    if not calibrated:
        why = (
            "INT8 of this network needs the ranges of its activations: write spec.optimize.calibration.uri with "
            "rows like those in production"
        )
        return Refusal(name, precision, why, wants_calibration=True)
    return None
