"""Which candidate is kept: the fastest that is fast enough and passes its gates, and a sentence for every other."""

from pathlib import Path

import pytest

from penstock_runtime.optimize.asked import OptimizeAsked
from penstock_runtime.optimize.candidates import Candidate
from penstock_runtime.optimize.rating import Rating, Ratings
from penstock_runtime.optimize.report import make_warnings
from penstock_runtime.optimize.timing import Ratio
from penstock_runtime.optimize.verdict import Choice, choose

STATIC = Candidate("static-int8", "INT8", Path("static-int8/model.onnx"))
DYNAMIC = Candidate("dynamic-int8", "INT8", Path("dynamic-int8/model.onnx"))
HALF = Candidate("fp16", "FP16", Path("fp16/model.onnx"))
GRAPH = Candidate("graph", None, Path("graph/model.onnx"))
HOOK = Candidate("hook", None, Path("hook/model.onnx"))
PRUNED = Candidate("pruned", None, Path("pruned/model.onnx"), warnings=("pruned: 30% of the weights are zero",))
MISSING = Candidate("static-int8", "INT8", why="write spec.optimize.calibration.uri", wants_calibration=True)


def rated(**speeds: float) -> Ratings:
    named = {name.replace("_", "-"): value for name, value in speeds.items()}
    return Ratings(
        None, {name: Rating(ratio=Ratio(value, value * 0.95, value * 1.05)) for name, value in named.items()}
    )


def chosen(candidates, ratings, accept=None, **asked) -> Choice:
    return choose(candidates, ratings, OptimizeAsked(**asked), accept)


@pytest.mark.parametrize(
    ("candidates", "speeds", "asked", "kept"),
    [
        ([STATIC], {"static_int8": 2.0}, {"precision": "Auto"}, STATIC),
        ([STATIC, DYNAMIC], {"static_int8": 2.0, "dynamic_int8": 2.2}, {"precision": "Auto"}, DYNAMIC),
        ([STATIC], {"static_int8": 1.19}, {"precision": "Auto"}, None),
        ([STATIC], {"static_int8": 1.19}, {"precision": "Auto", "min_speedup": 1.1}, STATIC),
        ([STATIC], {"static_int8": 0.2}, {"precision": "INT8"}, None),
        ([HALF], {"fp16": 1.0}, {"precision": "FP16"}, None),
        ([HALF], {"fp16": 1.0}, {"precision": "FP16", "min_speedup": 1.0}, HALF),
        ([HOOK], {"hook": 1.5}, {}, HOOK),
        ([HOOK, HALF], {"hook": 1.5, "fp16": 1.3}, {"precision": "FP16"}, HALF),
        ([PRUNED], {"pruned": 0.9}, {"prune": 0.3}, PRUNED),
        ([PRUNED, STATIC], {"pruned": 1.0, "static_int8": 1.5}, {"prune": 0.3, "precision": "Auto"}, STATIC),
        ([PRUNED, STATIC], {"pruned": 1.0, "static_int8": 1.1}, {"prune": 0.3, "precision": "Auto"}, PRUNED),
        ([MISSING, GRAPH], {"graph": 1.01}, {"precision": "Auto"}, None),
        ([STATIC], {}, {"precision": "INT8", "target": "GPU"}, STATIC),
        ([STATIC], {}, {"precision": "Auto", "target": "GPU"}, None),
    ],
)
def test_what_is_kept(candidates, speeds, asked, kept) -> None:
    choice = chosen(candidates, rated(**speeds), **asked)
    assert choice.kept is kept
    assert all(choice.why[candidate.name] for candidate in candidates)


@pytest.mark.parametrize(
    ("candidate", "asked", "kept"),
    [
        (HOOK, {}, False),
        (STATIC, {"precision": "Auto"}, False),
        (STATIC, {"precision": "INT8"}, True),
        (HOOK, {"min_speedup": 1.0}, True),
    ],
)
def test_a_speed_that_a_busy_node_made_up_is_none(candidate, asked, kept) -> None:
    """On a cluster: a copy of the model itself was 1.26 times as fast, with bounds on both sides of 1."""
    noisy = Ratings(None, {candidate.name: Rating(ratio=Ratio(1.26, 0.91, 1.61))})
    choice = chosen([candidate], noisy, **asked)
    assert (choice.kept is candidate) is kept
    assert (
        kept
        or "1.26 times as fast as the model, but it may be anything from 0.91 to 1.61" in choice.why[candidate.name]
    )


def test_a_candidate_that_fails_its_gates_gives_way_to_the_next() -> None:
    seen = []

    def accept(path: Path, precision: str | None) -> str | None:
        seen.append((path.parent.name, precision))
        return "accuracy fell by 3 points" if path == STATIC.path else None

    choice = chosen(
        [GRAPH, STATIC, DYNAMIC], rated(graph=1.3, static_int8=2.0, dynamic_int8=1.5), accept, precision="Auto"
    )
    assert choice.kept is DYNAMIC
    assert seen == [("static-int8", "INT8"), ("dynamic-int8", "INT8")]
    assert choice.why == {
        "static-int8": "its gates fail: accuracy fell by 3 points",
        "dynamic-int8": "1.50 times as fast as the model",
        "graph": "dynamic-int8 is faster",
    }


def test_the_gates_of_a_precision_asked_for_speak_for_themselves() -> None:
    choice = chosen([STATIC], rated(static_int8=2.0), lambda *_: "it fails", precision="INT8")
    assert choice.kept is STATIC


def test_a_candidate_that_answers_nonsense_is_out() -> None:
    broken = Rating(ratio=Ratio(3, 3, 3), difference={"broken": True})
    choice = chosen([HALF], Ratings(None, {"fp16": broken}), precision="FP16")
    assert choice.kept is None
    assert "NaN or infinity" in choice.why["fp16"]


@pytest.mark.parametrize(
    ("candidates", "speeds", "asked", "compared", "words"),
    [
        (
            [HALF],
            {"fp16": 1.0},
            {"precision": "FP16"},
            True,
            ["FP16 was asked for and is not served: fp16: 1.00 times"],
        ),
        (
            [MISSING],
            {},
            {"precision": "Auto"},
            True,
            ["static-int8 was not tried: write spec.optimize.calibration.uri"],
        ),
        ([STATIC], {"static_int8": 2}, {"precision": "Auto"}, False, ["give spec.gates.dataset"]),
        ([STATIC], {"static_int8": 2}, {"precision": "Auto"}, True, []),
        ([STATIC], {"static_int8": 1}, {"precision": "Auto"}, True, []),
        ([PRUNED], {"pruned": 1}, {"prune": 0.3}, True, ["30% of the weights are zero"]),
        ([STATIC], {}, {"precision": "INT8", "target": "GPU"}, False, ["give spec.gates.dataset"]),
    ],
)
def test_what_the_user_is_warned_of(candidates, speeds, asked, compared, words) -> None:
    wanted = OptimizeAsked(**asked)
    choice = choose(candidates, rated(**speeds), wanted, None)
    warnings = make_warnings(candidates, choice, wanted, compared=compared)
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, OptimizeAsked()),
        ({}, OptimizeAsked("None", 1.2, None)),
        ({"precision": "Auto", "minSpeedup": "1.5"}, OptimizeAsked("Auto", 1.5, None)),
        ({"minSpeedup": 2, "prune": {"amount": "0.3"}}, OptimizeAsked("None", 2.0, 0.3)),
    ],
)
def test_reading_the_spec(spec, expected) -> None:
    assert OptimizeAsked.read(spec) == expected
