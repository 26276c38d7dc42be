"""Counters become evidence, evidence becomes a verdict: sequential tests of a candidate against stable.

`begin` with stable's history, `advance` by one second at a time, `judge` whenever somebody wants to know. All three are
pure; `Evidence` has an exact text form, so that a restart changes nothing. docs/verdicts.md says in plain words what is
tested and how often it is wrong.
"""

from .counts import UNKNOWN, Counts, Second, choose_threshold, to_second
from .evidence import Evidence
from .fold import advance, begin
from .rules import Rules
from .verdict import Judgement, is_failing, judge

__all__ = [
    "UNKNOWN",
    "Counts",
    "Evidence",
    "Judgement",
    "Rules",
    "Second",
    "advance",
    "begin",
    "choose_threshold",
    "is_failing",
    "judge",
    "to_second",
]
