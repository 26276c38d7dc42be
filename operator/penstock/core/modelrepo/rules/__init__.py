"""The rules that a config.pbtxt must keep: small pure functions, one table.

Where a rule comes from is in facts/triton.md §1.6: (A) Triton refuses the file and says why only in its log, (B) it
answers the reason, (C) it loads and misbehaves, (D) it crashes, (E) a name runs as a command.
"""

from . import ensemble, files, identity, instances, scheduling, sequence, tensors, warmup
from .table import RULES, Rule, Subject

__all__ = [
    "RULES",
    "Rule",
    "Subject",
    "ensemble",
    "files",
    "identity",
    "instances",
    "scheduling",
    "sequence",
    "tensors",
    "warmup",
]
