"""A candidate without a stable revision beside it: within its bounds it stays, beyond them it goes. Seeded traffic."""

from random import Random

import pytest

from penstock.core.analysis import Counts, Rules, Second, advance, begin
from penstock.core.rollout.alone import judge_alone


def alone(rate: float, seconds: int, seed: int, usual: float = 0.002, slow: float = 0.05) -> tuple[int, str]:
    """The second at which a candidate with this error rate is taken back, or the last, and the verdict; 100 req/s."""
    rules, random = Rules(), Random(seed)

    def drawn(share: float) -> int:
        return sum(random.random() < share for _ in range(100))

    history = [Second(t, 0, Counts(100, drawn(usual), 0, drawn(0.05))) for t in range(1, 301)]
    evidence = begin(rules, history)
    for t in range(301, 301 + seconds):
        evidence = advance(evidence, rules, Second(t, 1000, Counts(), Counts(100, drawn(rate), 0, drawn(slow))))
        verdict = judge_alone(evidence, rules).verdict
        if verdict == "Fail":
            return t - 300, verdict
    return seconds, verdict


def test_within_its_bounds_nobody_is_taken_back_alone():
    ends = [alone(0.009, 40, seed) for seed in range(10)]
    assert "Fail" not in {verdict for _, verdict in ends}


@pytest.mark.parametrize(
    ("rate", "slow", "within"), [(1.0, 0.05, 3), (0.2, 0.05, 4), (0.05, 0.05, 12), (0.002, 0.4, 20)]
)
def test_beyond_them_it_is_taken_back_within_seconds(rate, slow, within):
    ends = [alone(rate, 60, seed, slow=slow) for seed in range(3)]
    assert {verdict for _, verdict in ends} == {"Fail"}
    assert max(second for second, _ in ends) <= within


def test_a_good_one_is_proven_alone():
    assert alone(0.001, 40, 1)[1] == "Pass"
