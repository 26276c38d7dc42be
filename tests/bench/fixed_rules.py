"""Fixed thresholds as two widespread controllers document them, applied to the same imagined traffic.

Metrics are scraped each 15 s. A query without a value is a failed check, as both count it.
"""

import numpy as np
from imagined import Drawn, Floats

__all__ = ["FIXED_RULES", "decide"]

_SCRAPE = 15

FIXED_RULES = {
    "Argo Rollouts, docs example": (300, 15, 0.95, 4),
    "Argo Rollouts, tight": (30, 60, 0.99, 1),
    "Flagger, docs example": (60, 60, 0.99, 11),
}
"""Seconds between checks, seconds looked at, success rate asked for, and the failed check that takes back.

Argo aborts when more than failureLimit (3, and 0) checks failed; Flagger at the tick after ten have.
"""


def decide(rule: str, drawn: Drawn, history: int) -> Floats:
    """Second in which each run is taken back, infinity for never."""
    interval, window, asked, failures = FIXED_RULES[rule]
    requests, errors = (_scraped(drawn.candidate[index][:, history:]) for index in (0, 1))
    width = window // _SCRAPE
    found = np.full(len(requests), np.inf)
    bad = np.zeros(len(requests), np.int64)
    for second in range(interval, (requests.shape[1] + 1) * _SCRAPE, interval):
        last = second // _SCRAPE
        seen = requests[:, max(0, last - width) : last].sum(1)
        failed = errors[:, max(0, last - width) : last].sum(1)
        bad += ~(seen - failed >= asked * np.maximum(seen, 1))
        found = np.where(np.isinf(found) & (bad >= failures), second, found)
    return found


def _scraped(counts: np.ndarray) -> np.ndarray:
    runs, seconds = counts.shape
    whole = seconds // _SCRAPE
    scraped: np.ndarray = counts[:, : whole * _SCRAPE].reshape(runs, whole, _SCRAPE).sum(2)
    return scraped
