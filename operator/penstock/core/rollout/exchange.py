"""`capacity: Replace` in numbers: how many pods have changed hands at each step. Pure arithmetic.

Of N pods the candidate has the first after step 1, one more with each step, and the last when it is promoted; with one
pod there is one step, in which the candidate has it and stable none. Above 20 steps pods change hands in groups.
"""

from math import ceil

from penstock.api.router import WHOLE

__all__ = ["count_steps", "handed_over", "share_between"]

_MOST_STEPS = 20


def count_steps(total: int) -> int:
    """Steps before the promotion."""
    return 1 if total == 1 else min(total, _MOST_STEPS + 1) - 1


def handed_over(total: int, step: int) -> int:
    """Pods of the candidate at a step; stable has the rest, so that both never have more than `total`."""
    if step <= 0 or total == 0:
        return 0
    return 1 if total == 1 else ceil(total * step / (count_steps(total) + 1))


def share_between(total: int, step: int) -> int:
    """The candidate's part, in 0.1 %, of the pods that serve while those of `step` change hands; 0 where none does."""
    mine, others = handed_over(total, step - 1), total - handed_over(total, step)
    return round(WHOLE * mine / (mine + others)) if mine else 0
