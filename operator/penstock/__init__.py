"""Penstock: from a trained model to proven, safely rolled-out serving on Triton Inference Server."""

__version__ = "0.2.0"
