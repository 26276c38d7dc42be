"""Making a model faster without making it wrong: candidates by measured rules, kept only when they are faster.

Everything here runs in the container that opens models, in its supervised child. What a candidate answers is judged by
the gates; here only speed is.
"""

from .asked import Accept, OptimizeAsked, Optimized
from .choose import optimize
from .files import copy_whole
from .source import compare_with_source

__all__ = ["Accept", "OptimizeAsked", "Optimized", "compare_with_source", "copy_whole", "optimize"]
