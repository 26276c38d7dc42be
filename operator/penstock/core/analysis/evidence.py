"""All that has been learnt about a candidate: the state of the fold, and its text in `status`."""

import json
from typing import Any, NamedTuple

from .comparison import Comparison, Wealth
from .counts import Counts
from .dispersion import Spread, Traffic
from .share import Level

__all__ = ["METRICS", "Evidence", "Metric", "Trial"]

METRICS = ("errors", "clientErrors", "latency")
_VERSION = "1"


class Metric(NamedTuple):
    """One kind of failure, compared with stable over the whole rollout."""

    spread: Spread
    ratio: Comparison
    """Against the tolerated multiple of stable's rate."""
    phi: float = 0.0
    """The dispersion in use; 0 before it was first asked for."""
    bound: float = 1.0
    """At least the e-value: what is cheap to know each second."""
    seconds: int = 0
    """Distinct seconds in which the candidate failed."""
    level: Level | None = None
    """Against an absolute share: the candidate's own slow requests, or its errors."""
    unity: Comparison | None = None
    """Against stable's rate itself: what the absolute guard asks besides."""


class Trial(NamedTuple):
    """The seconds in which the candidate had weight."""

    weight: int = 0
    shadow: bool = False
    shared: tuple[int, int] = (0, 0)
    """Requests of candidate and stable since the weight last changed."""
    block: tuple[int, int] = (0, 0)
    """Requests of candidate and stable in the open block of the solid bet."""
    seconds: int = 0
    """Seconds in which the candidate had requests."""
    stable: Counts = Counts()
    candidate: Counts = Counts()
    """Totals; `slow` over the seconds that judge latency, whose requests are `timed`."""
    timed: tuple[int, int] = (0, 0)
    """Requests of candidate and stable by which latency is judged."""
    well: tuple[int, int] = (0, 0)
    """Requests and errors of the candidate while stable's own error rate was below the maximum."""
    unwell: int = 0
    """Seconds in which it was not."""
    below: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Logarithms of the bets on a candidate that fails less than tolerated."""


class Evidence(NamedTuple):
    """Sums only, exact in text: the same seconds give the same bits, with or without a restart between them."""

    t: int
    """The last second used; older ones are passed over."""
    traffic: Traffic
    timed: Traffic | None
    """Stable's requests with a known slow bound; None while that is all of them."""
    errors: Metric
    client_errors: Metric
    latency: Metric
    recent: tuple[float, float] = (0.0, 0.0)
    """Stable's requests and errors, forgotten over about 15 s."""
    trial: Trial = Trial()

    @property
    def candidate(self) -> Counts:
        """What the candidate has answered since it first had weight."""
        return self.trial.candidate

    @property
    def stable(self) -> Counts:
        """What stable has answered in the same seconds."""
        return self.trial.stable

    def metric(self, name: str) -> Metric:
        """One of `METRICS`."""
        return (self.errors, self.client_errors, self.latency)[METRICS.index(name)]

    def to_text(self) -> str:
        """Compact, versioned, exact: floats in their shortest form that reads back to the same bits."""
        return _VERSION + json.dumps(self, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> "Evidence":
        """Raises ValueError for anything that `to_text` of this version did not write."""
        if not text.startswith(_VERSION + "["):
            raise ValueError(
                f"evidence starts with {text[:8]!r}; this release reads version {_VERSION}: the counters are judged"
                " from the routers' history again"
            )
        try:
            return _evidence(json.loads(text[len(_VERSION) :]))
        except (TypeError, ValueError, IndexError) as error:
            raise ValueError(f"evidence of version {_VERSION} is damaged: {error}") from error


def _evidence(values: list[Any]) -> Evidence:
    t, traffic, timed, errors, client_errors, latency, recent, trial = values
    return Evidence(
        t,
        _traffic(traffic),
        None if timed is None else _traffic(timed),
        _metric(errors),
        _metric(client_errors),
        _metric(latency),
        (recent[0], recent[1]),
        _trial(trial),
    )


def _trial(values: list[Any]) -> Trial:
    weight, shadow, shared, block, seconds, stable, candidate, timed, well, unwell, below = values
    first, second, third = below
    return Trial(
        weight,
        shadow,
        (shared[0], shared[1]),
        (block[0], block[1]),
        seconds,
        Counts(*stable),
        Counts(*candidate),
        (timed[0], timed[1]),
        (well[0], well[1]),
        unwell,
        (first, second, third),
    )


def _traffic(values: list[Any]) -> Traffic:
    seconds, total, unfinished, squares = values
    return Traffic(seconds, total, tuple(unfinished), tuple(squares))


def _metric(values: list[Any]) -> Metric:
    spread, ratio, phi, bound, seconds, level, unity = values
    total, unfinished, squares, products = spread
    return Metric(
        Spread(total, tuple(unfinished), tuple(squares), tuple(products)),
        _comparison(ratio),
        phi,
        bound,
        seconds,
        None if level is None else Level(level[0], level[1], tuple(level[2]), *level[3:]),
        None if unity is None else _comparison(unity),
    )


def _comparison(values: list[Any]) -> Comparison:
    early, late, restarts, last, stained, solid_early, solid_late, blocks, failed = values
    own, other = failed
    return Comparison(
        _wealth(early), _wealth(late), restarts, last, stained, solid_early, solid_late, blocks, (own, other)
    )


def _wealth(values: list[float]) -> Wealth:
    first, second, third = values
    return first, second, third
