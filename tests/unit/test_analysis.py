"""Evidence and verdicts: the fold, its text, what is decided, and by what margin."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.api.rollout import AnalysisSpec
from penstock.core.analysis import (
    UNKNOWN,
    Counts,
    Evidence,
    Rules,
    Second,
    advance,
    begin,
    choose_threshold,
    is_failing,
    judge,
    to_second,
)
from penstock.core.fleet import RevisionCounts, Row

RULES = Rules()


def traffic(
    seed, seconds, rps=100, weight=100, stable=0.002, candidate=0.002, start=1, slow=(0.01, 0.01), bad=(0.0, 0.0)
):
    """Seconds of randomly routed requests that fail independently."""
    chance = random.Random(seed)

    def failed(requests, rate):
        return sum(chance.random() < rate for _ in range(requests))

    for t in range(start, start + seconds):
        own = sum(chance.random() < weight / 1000 for _ in range(rps))
        other = rps - own
        yield Second(
            t,
            weight,
            Counts(other, failed(other, stable), failed(other, bad[0]), failed(other, slow[0])),
            Counts(own, failed(own, candidate), failed(own, bad[1]), failed(own, slow[1])) if weight else Counts(),
        )


def history(seconds=900, **changes):
    """Quiet, and quickly made: an error each 5 s or so, alone."""
    return [
        Second(t, 0, Counts(100, errors=int(t % 7 == 3), slow=int(t % 3 == 1)), **changes)
        for t in range(1, seconds + 1)
    ]


WARM = begin(RULES, history())


def fold(evidence, seconds, rules=RULES):
    for second in seconds:
        evidence = advance(evidence, rules, second)
    return evidence


def until_fail(seconds, evidence=WARM, rules=RULES):
    """The judgement that takes back, and the second; None when none does."""
    for second in seconds:
        evidence = advance(evidence, rules, second)
        if is_failing(evidence, rules):
            return second.t - 900, judge(evidence, rules)
    return None


counts = st.builds(
    lambda requests, parts: Counts(requests, *(min(requests, part) for part in parts)),
    st.integers(0, 200),
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 9)),
)
seconds_of_any_kind = st.lists(
    st.builds(
        lambda gap, weight, stable, candidate, shadow, timed: (
            gap,
            Second(
                0,
                weight,
                stable if timed else stable._replace(slow=UNKNOWN),
                candidate if timed else candidate._replace(slow=UNKNOWN),
                shadow,
            ),
        ),
        st.integers(1, 3),
        st.sampled_from([0, 1, 100, 500, 950, 1000]),
        counts,
        counts,
        st.booleans(),
        st.booleans(),
    ),
    max_size=60,
)


@settings(max_examples=40, deadline=None)
@given(seconds_of_any_kind, st.booleans(), st.data())
def test_restart_in_the_middle_gives_the_same_bits(steps, sticky, data):
    rules, t, seconds = Rules(sticky=sticky), 0, []
    for gap, second in steps:
        t += gap
        seconds.append(second._replace(t=t))
    cut = data.draw(st.integers(0, len(seconds)))
    whole = fold(begin(rules), seconds, rules)
    before = fold(begin(rules), seconds[:cut], rules)
    resumed = fold(Evidence.from_text(before.to_text()), seconds[cut:], rules)
    assert resumed == whole
    assert resumed.to_text() == whole.to_text()
    assert len(whole.to_text()) <= 6144
    assert judge(resumed, rules) == judge(whole, rules)
    assert is_failing(whole, rules) == (judge(whole, rules).verdict == "Fail")


@settings(max_examples=20, deadline=None)
@given(seconds_of_any_kind)
def test_a_second_seen_twice_counts_once(steps):
    seconds = [second._replace(t=t) for t, (_, second) in enumerate(steps, 1)]
    assert fold(begin(RULES), [*seconds, *seconds]) == fold(begin(RULES), seconds)


def test_evidence_stays_small_and_finite_however_long_and_bad_it_gets():
    bad = [Second(t, 500, Counts(5000, slow=1), Counts(5000, 5000, 0, 5000)) for t in range(1000, 1400)]
    evidence = fold(WARM, bad)
    assert len(evidence.to_text()) < 3000
    assert judge(evidence, RULES).verdict == "Fail"
    assert Evidence.from_text(evidence.to_text()) == evidence


@pytest.mark.parametrize("text", ["", "1", "0[1]", "1[1,2]", "1{}", WARM.to_text()[:-3], "1" + WARM.to_text()])
def test_text_of_another_version_or_damaged_is_refused(text):
    with pytest.raises(ValueError, match="evidence"):
        Evidence.from_text(text)


@pytest.mark.parametrize(
    ("fault", "reason", "within"),
    [
        ({"candidate": 1.0}, "ErrorRateWorse", 4),
        ({"candidate": 0.2}, "ErrorRateWorse", 15),
        ({"candidate": 0.05}, "ErrorRateWorse", 70),
        ({"bad": (0.005, 1.0)}, "ClientErrorRateWorse", 5),
        ({"bad": (0.005, 0.2)}, "ClientErrorRateWorse", 20),
        ({"slow": (0.01, 0.5)}, "LatencyWorse", 45),
        ({"candidate": 0.2, "weight": 950}, "ErrorRateWorse", 60),
        ({"candidate": 0.2, "weight": 500}, "ErrorRateWorse", 20),
        ({"candidate": 1.0, "rps": 2}, "ErrorRateWorse", 60),
    ],
)
def test_faults_are_found(fault, reason, within):
    found = until_fail(traffic(7, 120, start=901, **fault))
    assert found is not None
    t, judgement = found
    assert (judgement.verdict, judgement.reason) == ("Fail", reason)
    assert t <= within
    assert "of the candidate" in judgement.message
    assert [metric.name for metric in judgement.metrics] == ["errors", "clientErrors", "latency"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "case",
    [
        {},
        {"stable": 0.05, "candidate": 0.05},
        {"stable": 1.0, "candidate": 1.0},
        {"weight": 950},
        {"bad": (0.3, 0.3)},
        {"slow": (0.3, 0.3)},
    ],
)
def test_without_a_difference_nothing_is_taken_back(seed, case):
    assert until_fail(traffic(seed, 150, start=901, **case)) is None


def test_shares_of_the_budget_hold_at_the_edge_of_what_is_tolerated():
    """Candidates exactly twice as bad as stable, the worst that may pass: at most alpha (here 10 %) are taken back."""
    rules = Rules(alpha=0.1, max_rate=0.5)
    chance = random.Random(3)
    fails = 0
    for _ in range(80):
        evidence = WARM
        for t in range(901, 1021):
            own = chance.random() < 0.1 * 2 * 0.5
            other = chance.random() < 0.9 * 0.5
            evidence = advance(evidence, rules, Second(t, 100, Counts(90, int(other)), Counts(10, int(own))))
            if is_failing(evidence, rules):
                fails += 1
                break
    assert fails <= 80 * 0.1


def test_weights_that_change_while_both_fail_alike_are_no_evidence():
    seconds = [
        *traffic(1, 80, start=901, weight=10, stable=0.05, candidate=0.05),
        *traffic(2, 80, start=981, weight=100, stable=0.05, candidate=0.05),
        *traffic(3, 80, start=1061, weight=500, stable=0.05, candidate=0.05),
    ]
    assert until_fail(seconds) is None


def test_an_outage_of_both_holds_and_a_good_candidate_passes_after_it():
    seconds = [
        *traffic(1, 30, start=901),
        *traffic(2, 30, start=931, stable=0.5, candidate=0.5),
        *traffic(3, 400, start=961, weight=500),
    ]
    evidence, seen = WARM, []
    for second in seconds:
        evidence = advance(evidence, RULES, second)
        seen.append(judge(evidence, RULES))
    assert {judgement.verdict for judgement in seen[33:59]} == {"Inconclusive"}
    assert seen[40].reason == "StableAboveMaximum"
    assert "Fail" not in {judgement.verdict for judgement in seen}
    assert seen[-1].verdict == "Pass"
    assert "while stable was well" in seen[-1].message


def test_pass_is_proven_and_says_before_how_much_is_missing():
    evidence = WARM
    clean = [Second(t, 100, Counts(90), Counts(10)) for t in range(901, 1000)]
    for second in clean:
        before, evidence = evidence, advance(evidence, RULES, second)
        judgement = judge(evidence, RULES)
        if judgement.verdict == "Pass":
            break
    # the bet on no errors at all is one of four: ln(20 * 4) / -ln(0.99), less what the other three add
    assert 290 <= evidence.candidate.requests <= 440
    almost = judge(before, RULES)
    assert almost.verdict == "Undecided"
    assert 1 <= almost.requests_needed <= 10
    assert almost.seconds_needed(10) <= 1
    assert almost.seconds_needed(0) is None


def test_a_candidate_at_the_maximum_is_not_proven():
    evidence = fold(WARM, traffic(4, 200, start=901, weight=500, stable=0.008, candidate=0.01))
    judgement = judge(evidence, RULES)
    assert judgement.verdict == "Undecided"
    assert judgement.requests_needed is None or judgement.requests_needed > 100


def test_where_stable_is_above_the_maximum_pass_means_better_than_tolerated():
    sick = list(traffic(1, 300, rps=30, weight=0, stable=0.05))
    evidence = begin(RULES, sick)
    equal = fold(evidence, traffic(2, 150, start=901, weight=500, stable=0.05, candidate=0.05))
    assert judge(equal, RULES).verdict == "Pass"
    assert "2 times stable's" in judge(equal, RULES).message
    tolerated = fold(evidence, traffic(2, 60, start=901, weight=500, stable=0.05, candidate=0.1))
    assert judge(tolerated, RULES).verdict == "Inconclusive"


def test_the_absolute_guard_acts_within_the_tolerance_while_stable_is_below_it():
    rules = Rules(tolerance=20.0)
    seconds = [Second(t, 500, Counts(100, int(t % 4 == 0)), Counts(100, 4)) for t in range(901, 961)]
    _, judgement = until_fail(seconds, begin(rules, history()), rules)
    assert judgement.reason == "ErrorRateAboveMaximum"
    assert "maximum of 1 %" in judgement.message
    both = [second._replace(stable=Counts(100, 4)) for second in seconds]
    assert until_fail(both, begin(rules, history()), rules) is None


def test_no_request_is_no_evidence():
    idle = fold(WARM, [Second(t, 100, Counts(3), Counts()) for t in range(901, 960)])
    assert (judge(idle, RULES).verdict, judge(idle, RULES).reason) == ("NoEvidence", "NoTraffic")
    assert judge(begin(RULES), RULES).verdict == "NoEvidence"


def test_two_terrible_seconds_are_not_enough():
    calm = list(traffic(5, 60, start=901, stable=0.0, candidate=0.0))
    bad = [second._replace(candidate=Counts(20, 20)) if second.t in (930, 931) else second for second in calm]
    assert until_fail(bad) is None
    bad[33] = bad[33]._replace(candidate=Counts(20, 20))
    assert until_fail(bad) is not None


def test_a_slow_moment_is_no_slow_revision():
    seconds = [Second(t, 100, Counts(90, slow=1), Counts(10, slow=8 if 920 <= t < 940 else 0)) for t in range(901, 990)]
    assert until_fail(seconds) is None


def test_latency_waits_for_fifty_requests_and_for_a_bound():
    few = [Second(t, 100, Counts(9), Counts(1, slow=1)) for t in range(901, 945)]
    assert until_fail(few) is None
    unknown = [Second(t, 100, Counts(90, slow=UNKNOWN), Counts(10, slow=UNKNOWN)) for t in range(901, 960)]
    assert judge(fold(WARM, unknown), RULES).metrics[2].candidate == "0 of 0"


def test_a_bound_chosen_late_judges_by_what_came_after():
    blind = [Second(t, 0, Counts(100, slow=UNKNOWN)) for t in range(1, 500)]
    evidence = fold(begin(RULES, blind), [Second(t, 0, Counts(100, slow=t % 2)) for t in range(500, 901)])
    assert evidence.timed is not None
    assert evidence.timed.total == 401 * 100
    assert until_fail(traffic(6, 120, start=901, slow=(0.01, 0.9)), evidence)[1].reason == "LatencyWorse"


def test_with_stickiness_one_client_that_always_fails_is_one_failure():
    rules = Rules(sticky=True)
    seconds = [Second(t, 100, Counts(90), Counts(10, int(t == 905))) for t in range(901, 1100)]
    assert until_fail(seconds, begin(rules, history()), rules) is None
    crowd = [Second(t, 100, Counts(90), Counts(10, 1)) for t in range(901, 930)]
    assert until_fail(crowd, begin(rules, history()), rules) is not None


def test_shadow_copies_are_judged_by_how_many_were_made():
    seconds = [Second(t, 100, Counts(100), Counts(10, int(t % 2)), shadow=True) for t in range(901, 960)]
    assert until_fail(seconds)[1].reason == "ErrorRateWorse"
    refused = [Second(t, 500, Counts(100, 1), Counts(5, int(t % 20 == 0)), shadow=True) for t in range(901, 1000)]
    assert until_fail(refused) is None


def test_bursts_in_the_history_make_the_verdict_wait():
    burst = [Second(t, 0, Counts(100, 12 * (t % 60 == 7), slow=0)) for t in range(1, 901)]
    seconds = list(traffic(8, 120, start=901, candidate=0.2))
    calm, wary = until_fail(seconds), until_fail(seconds, begin(RULES, burst))
    assert calm[0] < wary[0]


def test_rules_take_the_defaults_of_the_api():
    assert Rules.of(None) == RULES == Rules.of(AnalysisSpec())
    spec = AnalysisSpec.model_validate(
        {
            "errors": {"tolerance": 3, "maxPercent": "0.5"},
            "latency": {"quantile": 99, "tolerance": "1.5"},
            "falseRollback": "0.05",
            "promoteConfidence": "0.99",
            "deadline": "1h",
        }
    )
    rules = Rules.of(spec, sticky=True)
    assert (rules.tolerance, rules.max_rate, rules.quantile) == (3.0, 0.005, 0.99)
    assert (rules.slow_tolerance, rules.deadline, rules.sticky) == (1.5, 3600.0, True)
    assert math.isclose(rules.pass_at, 100)
    assert math.isclose(rules.fail_at, 20)


BOUNDS = (1, 2, 5, 10, 20, 50)


def row(second=5, weights=None, shadow=None, **counts):
    return Row(second, 3, weights or {"a": 900, "b": 100}, counts, BOUNDS, shadow)


def test_rows_become_seconds():
    a = RevisionCounts(100, 2, 3, 1, (50, 30, 10, 5, 2, 1, 2))
    b = RevisionCounts(10, 1, 0, 0, (5, 2, 1, 1, 1, 0, 0))
    assert to_second(row(a=a, b=b), "a", "b", 10) == Second(5, 100, Counts(100, 2, 3, 5), Counts(10, 1, 0, 1))
    assert to_second(row(a=a), "a", "b", 10).candidate == Counts()
    assert to_second(row(a=a, b=b), "a", "b", None).stable.slow == UNKNOWN
    assert to_second(row(a=a, b=b), "a", None, 10) == Second(5, 0, Counts(100, 2, 3, 5))
    copied = to_second(row(weights={"a": 1000}, shadow=("b", 250), a=a, b=b), "a", "b", 10)
    assert (copied.weight, copied.shadow, copied.candidate.requests) == (250, True, 10)


@pytest.mark.parametrize(
    ("latency", "expected"),
    [
        ((0, 0, 90, 10, 0, 0, 0), 20),  # p95 is 7.5 ms, twice that 15
        ((100, 0, 0, 0, 0, 0, 0), 2),
        ((0, 0, 0, 0, 0, 100, 0), 50),  # nothing above the last bound is known apart
        ((0, 0, 0, 0, 0, 90, 10), None),
        ((10, 0, 0, 0, 0, 0, 0), None),
    ],
)
def test_the_slow_bound_comes_from_stables_own_latency(latency, expected):
    rows = [row(a=RevisionCounts(sum(latency), latency=latency)), row(second=6)]
    assert choose_threshold(rows, "a", 0.95, 2.0) == expected
