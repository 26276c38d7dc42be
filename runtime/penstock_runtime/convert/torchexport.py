"""`.pt2`: a program that torch.export.save wrote. It needs no class of the author's."""

from typing import Any

import torch

from penstock.api.reasons import Reason
from penstock_runtime.failure import Failure, shorten

from .case import Case, Opened
from .torchonnx import open_program, quiet

__all__ = ["open_torch_export"]


def open_torch_export(case: Case) -> Opened:
    """Load the program without running any pickled code; raises Failure."""
    case.progress("loading the exported program")
    return open_program(case, _load(case))


def _load(case: Case) -> Any:
    try:
        with quiet():
            return torch.export.load(case.source())
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        text = shorten(str(error), 400)
        if "weights_only" in text or "Unsupported global" in text or "WeightsUnpickler" in text:
            message = (
                f"{case.found.path} holds a pickle that would run code when loaded, and it was not run; save it again "
                f"with torch.export.save: {text}"
            )
            raise Failure(Reason.CODE_NOT_TRUSTED, message) from error
        message = (
            f"torch {torch.__version__} cannot read {case.found.path}: {text}; save it with the same or an older "
            "release"
        )
        raise Failure(Reason.INVALID_MODEL, message) from error
