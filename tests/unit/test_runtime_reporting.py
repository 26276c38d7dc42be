"""Rows of gates from other containers: what they mean, and that the largest case fits a termination message."""

import random
import string

import pytest

from penstock.api.facts import ArtifactRef, ModelFacts, Tensor
from penstock.api.preparation import PreparationError, PreparationReport
from penstock.api.proving import GatesSpec
from penstock.api.reasons import Reason
from penstock.api.report import GateRow
from penstock.api.termination import REPORT_LIMIT, REPORT_VARIABLE, report_bytes, report_limit
from penstock_runtime.failure import Failure
from penstock_runtime.reporting import check_all_judged, fit_report, gate_results, gate_rows, refusal

RANDOM = random.Random(7)
DIGEST = "sha256:" + "0123456789abcdef" * 4
ARTIFACT = ArtifactRef(repository="registry.penstock-system:5000/vision", manifest=DIGEST, layer=DIGEST, size_bytes=1)


def noise(length: int) -> str:
    return "".join(RANDOM.choices(string.ascii_letters + string.digits, k=length))


def row(at: int, *, passed: bool = True) -> GateRow:
    name = f"{noise(120)}.{at}"
    return GateRow(name=name, asked=noise(64), measured=noise(300), passed=passed, reason="ParityFailed")


def facts(tensors: int = 2, warnings: int = 0) -> ModelFacts:
    inputs = tuple(Tensor(name=f"{noise(20)}{at}", data_type="FP32", dims=(-1, at)) for at in range(tensors))
    texts = tuple(noise(300) for _ in range(warnings))
    return ModelFacts(format="ONNX", digest=DIGEST, artifact=ARTIFACT, inputs=inputs, warnings=texts)


def test_the_first_failed_row_is_the_error() -> None:
    rows = gate_rows(
        {
            "gates": [
                {"name": "size", "passed": True},
                {"name": "parity", "passed": False, "reason": "ParityFailed", "sentence": "3 of 100 rows differ"},
                {"name": "accuracy", "passed": False, "reason": "AccuracyFailed", "sentence": "second"},
            ]
        },
        "inspect",
    )
    assert refusal(rows) == PreparationError(reason=Reason.PARITY_FAILED, message="3 of 100 rows differ")
    assert refusal(rows[:1]) is None
    assert refusal(()) is None


def test_a_failed_row_without_words_still_says_both_numbers() -> None:
    refused = refusal([GateRow(name="memory", asked="at most 1 GiB", measured="2 GiB", passed=False, reason="New")])
    assert refused is not None
    assert refused.reason is Reason.PREPARATION_FAILED
    assert "2 GiB" in refused.message
    assert "1 GiB" in refused.message


@pytest.mark.parametrize("gates", [[{"name": "x"}], [{"passed": False}], "text", [3], [{"name": "x", "passed": "?"}]])
def test_rows_that_cannot_be_read(gates: object) -> None:
    with pytest.raises(Failure) as caught:
        gate_rows({"gates": gates}, "measure")
    assert caught.value.reason is Reason.PREPARATION_FAILED
    assert "measure" in caught.value.message


def test_failed_rows_are_kept_before_passed_ones() -> None:
    rows = [row(at, passed=at != 19) for at in range(20)]
    results = gate_results(rows)
    assert len(results) == 16
    assert [result.passed for result in results] == [True] * 15 + [False]
    assert all(len(result.measured) <= 160 for result in results)


@pytest.mark.parametrize("failed", [0, 1, 16])
def test_sixteen_gates_with_long_names_fit(failed: int) -> None:
    results = gate_results([row(at, passed=at >= failed) for at in range(16)])
    error = PreparationError(reason=Reason.PARITY_FAILED, message=noise(1400)) if failed else None
    report = PreparationReport(
        facts=None if failed else facts(warnings=8), error=error, gates=results, report=DIGEST, resolved=noise(256)
    )
    fitted = fit_report(report)
    assert len(fitted.encode()) <= REPORT_LIMIT
    assert PreparationReport.decode(fitted.encode()) == fitted
    assert (fitted.error, fitted.report, fitted.resolved) == (error, DIGEST, report.resolved)
    assert sum(not gate.passed for gate in fitted.gates) >= min(failed, 4)


def test_what_fits_is_left_alone() -> None:
    report = PreparationReport(facts=facts(), gates=gate_results([row(1)]), report=DIGEST)
    assert fit_report(report) is report


def test_names_that_cannot_fit_are_refused() -> None:
    with pytest.raises(Failure) as caught:
        fit_report(PreparationReport(facts=facts(tensors=256)))
    assert caught.value.reason is Reason.UNSUPPORTED_MODEL
    assert "256 inputs" in caught.value.message


def test_resolved_stands_alone_or_beside_one_of_the_others() -> None:
    for report in (
        PreparationReport(resolved="etag"),
        PreparationReport(resolved="etag", facts=facts()),
        PreparationReport(resolved="etag", error=PreparationError(reason=Reason.TOO_LARGE, message="x")),
    ):
        assert PreparationReport.decode(report.encode()) == report
    for text in ("{}", '{"gates": []}'):
        with pytest.raises(ValueError, match="holds one of"):
            PreparationReport.decode(text)


def test_an_error_of_any_letters_fits() -> None:
    letters = "".join(chr(0x4E00 + RANDOM.randrange(20_000)) for _ in range(1400))
    report = PreparationReport(
        error=PreparationError(reason=Reason.INVALID_MODEL, message=letters), resolved=noise(256)
    )
    fitted = fit_report(report)
    assert PreparationReport.decode(fitted.encode()) == fitted
    assert fitted.error is not None
    assert fitted.error.reason is Reason.INVALID_MODEL
    assert fitted.error.message.startswith(letters[:100])


def test_a_gate_that_is_answered_twice_is_an_error_and_never_reaches_status() -> None:
    """Status lists them by name: the API server would refuse all of it, with whatever else it had to say."""
    with pytest.raises(Failure, match="gate size was answered twice"):
        gate_results([GateRow(name="size", passed=True), GateRow(name="size", passed=True)])
    result = '{"name":"size","passed":true}'
    with pytest.raises(ValueError, match="two results of one gate"):
        PreparationReport.decode(f'{{"resolved":"x","gates":[{result},{result}]}}')


ASKED = GatesSpec.model_validate(
    {
        "dataset": {"uri": "s3://m/d.npz"},
        "parity": {},
        "accuracy": {"metric": "Top1", "minimum": "0.9"},
        "size": {"max": "1Mi"},
        "latency": {"p95": "20ms"},
    }
)


def test_a_gate_that_nobody_judged_is_an_error() -> None:
    names = ["parity.top1", "accuracy", "size", "latency.p95"]
    check_all_judged(ASKED, [GateRow(name=name, passed=True) for name in names])
    check_all_judged(None, [])
    for left in names:
        rows = [GateRow(name=name, passed=True) for name in names if name != left]
        with pytest.raises(Failure, match=left.partition(".")[0]):
            check_all_judged(ASKED, rows)
    with pytest.raises(Failure, match="parity, accuracy, size, latency"):
        check_all_judged(ASKED, [GateRow(name="served.parity", passed=True)])


@pytest.mark.parametrize("size", ["-1", "1e400", "NaN", "1e30", "9223372036854775808", "1" + "0" * 400])
def test_numbers_that_status_could_not_hold_are_no_report(size: str) -> None:
    with pytest.raises(ValueError, match="not a preparation report"):
        PreparationReport.decode('{"needs": {"format": "Keras", "opener": "Convert", "sizeBytes": ' + size + "}}")


@pytest.mark.parametrize("containers", [1, 2, 4, 6, 8])
@pytest.mark.parametrize("failed", [0, 1, 16])
def test_what_is_told_fits_the_share_of_its_pod(containers: int, failed: int) -> None:
    """On a cluster: of a pod with six containers no message is longer than 2,048 bytes, the rest of it was gone."""
    limit = report_limit(containers)
    assert limit * containers <= 12 << 10
    results = gate_results([row(at, passed=at >= failed) for at in range(16)])
    error = PreparationError(reason=Reason.PARITY_FAILED, message=noise(1400)) if failed else None
    report = PreparationReport(
        facts=None if failed else facts(warnings=8), error=error, gates=results, report=DIGEST, resolved=noise(256)
    )
    told = PreparationReport.decode(fit_report(report, limit).encode(limit))
    assert (told.report, told.resolved) == (report.report, report.resolved)
    if report.facts is not None:
        assert told.facts is not None
        assert told.facts.inputs == report.facts.inputs
    else:
        assert told.error is not None
        assert told.error.message[:90] == report.error.message[:90]


def test_a_container_knows_its_share_from_its_variables() -> None:
    assert report_bytes({}) == REPORT_LIMIT == report_limit(2)
    assert report_bytes({REPORT_VARIABLE: str(report_limit(6))}) == 1755
