"""How many replicas a revision runs, and who says so."""

from .autoscaler import horizontal_autoscaler

__all__ = ["horizontal_autoscaler"]
