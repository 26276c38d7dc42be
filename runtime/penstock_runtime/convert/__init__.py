"""Conversion: a model of another framework becomes ONNX, and answers in its own framework for comparison.

Each family of formats has a module that opens the source (`Opened`: export and answer); what follows is the same for
all of them (`finish`). Families are imported when they are needed: torch alone takes seconds.
"""

from .case import Converted, Reference
from .dispatch import convert, load_reference, preload

__all__ = ["Converted", "Reference", "convert", "load_reference", "preload"]
