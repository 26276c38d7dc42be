"""Imagined traffic: requests and failures of two revisions second by second, drawn for many runs at once.

Arrays are runs by seconds, the first of them history of stable. A request is routed at random by weight, as the
router does; failures are independent, come in bursts of one revision, are shared by both, or stick to one client.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["HISTORY", "Case", "Drawn", "draw"]

HISTORY = 900
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """What the traffic of a cell is like; rates are shares of requests."""

    rps: float
    plan: tuple[tuple[int, int], ...] = ((100, 600),)
    """(weight in 0.1 %, seconds)."""
    history: int = HISTORY
    base: float = 0.002
    fault: float | None = None
    """The candidate's error rate; None: as stable's."""
    onset: int = 0
    """Seconds after which the fault, or the shared outage, is there."""
    burst: int = 0
    """Errors of one revision come in bursts of this mean size …"""
    spread: int = 1
    """… over so many seconds."""
    outage: float = 0.0
    """From onset on both fail so often, for `outage_seconds`."""
    outage_seconds: int = 600
    clients: int = 0
    """Sticky: so many clients, of which `bad_clients` always fail and are told apart."""
    bad_clients: int = 0
    drain: float = 0.0
    """Every pod of ten is drained once; for 2 s this share of its requests fails."""
    diurnal: bool = False
    """Traffic and error rate grow threefold over the run."""
    shadow: bool = False
    client_base: float = 0.005
    client_fault: float | None = None
    slow_base: float = 0.01
    slow_fault: float | None = None
    episodes: int = 0
    """Each pod is slow now and then for so many seconds: 40 % of its requests."""
    pods: tuple[int, int] = (9, 1)
    together: bool = False
    """Slow episodes are of the node: all pods at once."""


@dataclass(frozen=True)
class Drawn:
    """Counts of stable and candidate, each requests, errors, client errors, slow; weights by second."""

    weights: Ints
    stable: tuple[Ints, Ints, Ints, Ints]
    candidate: tuple[Ints, Ints, Ints, Ints]


def draw(case: Case, runs: int, rng: np.random.Generator) -> Drawn:
    """Traffic of `runs` rollouts."""
    weights = np.concatenate(
        [np.zeros(case.history, np.int64), *(np.full(seconds, weight) for weight, seconds in case.plan)]
    )
    seconds = len(weights)
    after = np.arange(seconds) - case.history
    share = np.broadcast_to(weights / 1000, (runs, seconds))
    load = case.rps * (np.linspace(0.5, 1.5, seconds) if case.diurnal else np.ones(seconds))
    if case.shadow:
        stable_n = rng.poisson(load, (runs, seconds))
        candidate_n = rng.binomial(stable_n, share)
    else:
        candidate_n = rng.poisson(load * share)
        stable_n = rng.poisson(load * (1 - share))
    base = case.base * (np.linspace(0.5, 1.5, seconds) if case.diurnal else np.ones(seconds))
    outage = np.where((after >= case.onset) & (after < case.onset + case.outage_seconds), case.outage, 0.0)
    stable_p = np.maximum(base, outage)
    candidate_p = stable_p if case.fault is None else np.where(after >= case.onset, case.fault, base)
    errors = [_errors(case, n, p, rng) for n, p in ((stable_n, stable_p), (candidate_n, candidate_p))]
    if case.drain:
        errors = _drained(case, errors, (stable_n, candidate_n), rng)
    if case.clients:
        errors = _sticky(case, (stable_n, candidate_n), weights, after, rng)
    refused_p = case.client_base if case.client_fault is None else case.client_fault
    refused = [
        rng.binomial(stable_n, case.client_base),
        rng.binomial(candidate_n, np.where(after >= case.onset, refused_p, case.client_base)),
    ]
    slow = _slow(case, (stable_n, candidate_n), after, rng)
    return Drawn(weights, (stable_n, errors[0], refused[0], slow[0]), (candidate_n, errors[1], refused[1], slow[1]))


def _errors(case: Case, n: Ints, p: Floats, rng: np.random.Generator) -> Ints:
    if not case.burst:
        return rng.binomial(n, np.broadcast_to(p, n.shape))
    bursts = rng.poisson(n * p / case.burst)
    runs, starts = np.nonzero(bursts)
    count = bursts[runs, starts]
    runs, starts = np.repeat(runs, count), np.repeat(starts, count)
    sizes = rng.geometric(1 / case.burst, len(runs))
    runs, at = np.repeat(runs, sizes), np.repeat(starts, sizes)
    at = at + rng.integers(0, case.spread, len(at))
    errors = np.zeros_like(n)
    kept = at < n.shape[1]
    np.add.at(errors, (runs[kept], at[kept]), 1)
    return np.minimum(errors, n)


def _drained(case: Case, errors: list[Ints], requests: tuple[Ints, Ints], rng: np.random.Generator) -> list[Ints]:
    """Nine pods of stable and one of the candidate, each drained at a moment of its own after the history."""
    runs, seconds = errors[0].shape
    found = []
    for arm, pods in enumerate((9, 1)):
        total = errors[arm].copy()
        for _ in range(pods):
            start = rng.integers(case.history, seconds - 2, runs)
            for later in (0, 1):
                row = np.arange(runs)
                n = requests[arm][row, start + later]
                total[row, start + later] += rng.binomial(n, case.drain / pods)
        found.append(np.minimum(total, requests[arm]))
    return found


def _sticky(
    case: Case, requests: tuple[Ints, Ints], weights: Ints, after: Ints, rng: np.random.Generator
) -> list[Ints]:
    """Failures as distinct clients: a client counts once, in the revision that its hash chose.

    Clients that always fail send their share of the traffic, so each appears soon after the candidate has weight; the
    rest of the errors are of clients that fail now and then, each met once.
    """
    runs = requests[0].shape[0]
    found = [rng.binomial(n, case.base) for n in requests]
    each = case.rps / case.clients
    start = int(np.argmax(weights > 0))
    for _ in range(case.bad_clients):
        first = start + np.minimum(rng.exponential(1 / each, runs).astype(np.int64), len(weights) - start - 1)
        mine = rng.random(runs) < weights[first] / 1000
        for arm in (0, 1):
            chosen = mine == bool(arm)
            np.add.at(found[arm], (np.arange(runs)[chosen], first[chosen]), 1)
    return [np.minimum(count, np.maximum(n, count)) for count, n in zip(found, requests, strict=True)]


def _slow(case: Case, requests: tuple[Ints, Ints], after: Ints, rng: np.random.Generator) -> list[Ints]:
    found = []
    shape = requests[0].shape
    shared = _episodes(case, shape, rng) if case.episodes and case.together else None
    for arm, n in enumerate(requests):
        base = np.full(shape, case.slow_base)
        if arm and case.slow_fault is not None:
            base = np.where(after >= case.onset, case.slow_fault, base)
        if not case.episodes:
            found.append(rng.binomial(n, base))
            continue
        pods = case.pods[arm]
        left, total = n.copy(), np.zeros_like(n)
        for pod in range(pods):
            mine = rng.binomial(left, 1 / (pods - pod))
            left = left - mine
            ill = shared if shared is not None else _episodes(case, shape, rng)
            total += rng.binomial(mine, np.where(ill, np.maximum(base, 0.4), base))
        found.append(total)
    return found


def _episodes(case: Case, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Whether a pod is in a slow episode, 2 % of the time."""
    starts = rng.random(shape) < 0.02 / case.episodes
    sums = np.cumsum(starts, 1)
    before = np.concatenate([np.zeros((shape[0], case.episodes), np.int64), sums[:, : -case.episodes]], 1)
    found: NDArray[np.bool_] = sums > before
    return found
