"""`python -m penstock_runtime.measure`: the container of a preparation that asks the real server.

It lays out the repository exactly as serving pods get it, has `penstock-prove` in the container beside it serve that,
and takes the last look: parity and consistency through the protocol, latency, throughput, memory, and where it is asked
for the search for better settings. It knows the loopback interface alone, and no credential.
"""

import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from penstock.api.facts import ModelFacts
from penstock.api.preparation import REQUEST_VARIABLE, PreparationError, PreparationReport, PreparationRequest
from penstock.api.reasons import Reason
from penstock.api.termination import report_bytes

from .failure import Failure, shorten
from .gates.offline import PREDICTIONS
from .measurement import Given, Measurement
from .meeting import (
    ACCEPTED,
    DATASET,
    FAILED,
    FETCHED,
    INSPECTED,
    MEASURED,
    METRIC,
    PREPARED,
    Meeting,
    PartnerDiedError,
)
from .mounts import Places, termination_log
from .reporting import fit_report, gate_results, gate_rows, refusal

__all__ = ["main"]

_SECONDS = 20.0
_NO_DIGEST = f"sha256:{'0' * 64}"


def main() -> int:
    """Run the container; returns its exit code: 0 when it answered, or there was nothing to measure."""
    places = Places.here()
    request = PreparationRequest.model_validate_json(os.environ[REQUEST_VARIABLE])
    sequential = os.environ.get("PENSTOCK_MODE") == "sequential"
    meeting = Meeting(places.work, "measure", "transfer")
    measurement: Measurement | None = None
    error: Failure | None = None
    try:
        given = _inspected(meeting, places) if sequential else _accepted(meeting)
        if given is None:
            if sequential:
                meeting.write(MEASURED, {"gates": []})
                return _stop_metric(request, places, meeting, {})
            return 0
        seconds = float(os.environ.get("PENSTOCK_MEASURE_SECONDS", _SECONDS))
        measurement = Measurement(request, given, places.work, seconds)
        measurement.run()
    except PartnerDiedError as ended:
        print(ended, file=sys.stderr)
        return 0
    except Failure as failure:
        error = failure
    except Exception as defect:  # noqa: BLE001 - the other container waits for an answer, whatever it is
        traceback.print_exc()
        message = shorten(f"the measurement failed: {type(defect).__name__}: {defect}")
        error = Failure(Reason.PREPARATION_FAILED, message)
    answer = measurement.answer() if measurement else {"gates": [], "report": {}}
    if error is not None:
        answer["error"] = {"reason": error.reason, "message": error.message}
        print(f"{error.reason}: {error.message}", file=sys.stderr)
    meeting.write(MEASURED, answer)
    return _stop_metric(request, places, meeting, answer) if sequential else 0


def _stop_metric(request: PreparationRequest, places: Places, meeting: Meeting, answer: Mapping[str, Any]) -> int:
    """The exit code; it ends the pod where a metric of the user's own comes next and has no predictions to read.

    Its image would only fail, and hide why there are none.
    """
    accuracy = request.gates.accuracy if request.gates else None
    if accuracy is None or accuracy.image is None or (places.work / METRIC / PREDICTIONS).is_file():
        return 0
    report = _refused(meeting, answer)
    if report is None:
        return 0
    termination_log(places, fit_report(report).encode(report_bytes(os.environ)))
    return 1


def _refused(meeting: Meeting, answer: Mapping[str, Any]) -> PreparationReport | None:
    """Why there are none, in the words of this container or of the inspection; whatever that has left."""
    try:
        rows = (*gate_rows(_told(meeting), "inspect"), *gate_rows(answer, "measure"))
        gates = gate_results(rows)
    except Failure as failure:
        return PreparationReport(error=PreparationError(reason=failure.reason, message=failure.message))
    error = PreparationError.model_validate(answer["error"]) if "error" in answer else refusal(rows)
    return PreparationReport(error=error, gates=gates) if error else None


def _told(meeting: Meeting) -> dict[str, Any]:
    """What the inspection said, which is not trusted; raises Failure."""
    try:
        told = meeting.read(INSPECTED)
    except (ValueError, OSError) as error:
        raise Failure(Reason.PREPARATION_FAILED, f"the answer of inspect cannot be read: {error}") from error
    if not isinstance(told, dict):
        raise Failure(Reason.PREPARATION_FAILED, "the answer of inspect is not a JSON object")
    return told


def _accepted(meeting: Meeting) -> Given | None:
    """What transfer has checked; None where it does not come to a measurement."""
    if meeting.wait(ACCEPTED, FAILED) == FAILED:
        return None
    accepted, fetched = meeting.read(ACCEPTED), meeting.read(FETCHED)
    files = {name: Path(path) for name, path in accepted["files"].items()}
    return Given(_facts(accepted["facts"]), files, _dataset_folder(fetched, meeting.folder), _folders(accepted))


def _inspected(meeting: Meeting, places: Places) -> Given | None:
    """The same from what the opener left, where containers run one after the other; None for a refused model."""
    told, fetched = _told(meeting), meeting.read(FETCHED)
    if "facts" not in told or "error" in told or refusal(gate_rows(told, "inspect")):
        return None
    made = "prepared" in told
    root = (places.work / PREPARED if made else Path(fetched["root"])).resolve()
    files = {}
    for name, source in told["prepared" if made else "files"].items():
        path = (root / str(source)).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise Failure(Reason.PREPARATION_FAILED, f"the inspection's answer names {source!r}, which is no such file")
        files[str(name)] = path
    artifact = {"repository": "unpublished", "manifest": _NO_DIGEST, "layer": _NO_DIGEST, "sizeBytes": 0}
    return Given(
        _facts({**told["facts"], "digest": _NO_DIGEST, "artifact": artifact}),
        files,
        _dataset_folder(fetched, meeting.folder),
        _folders(told),
    )


def _folders(told: Mapping[str, Any]) -> tuple[str, ...]:
    """Folders without files; none that would lead out of the repository."""
    names = tuple(map(str, told.get("folders", ())))
    return tuple(name for name in names if all(part not in ("", ".", "..") for part in name.split("/")))


def _facts(data: Mapping[str, Any]) -> ModelFacts:
    try:
        return ModelFacts.model_validate(data)
    except ValidationError as error:
        raise Failure(Reason.PREPARATION_FAILED, f"the facts to measure with are malformed: {error}") from error


def _dataset_folder(fetched: Mapping[str, Any], work: Path) -> Path | None:
    """Where transfer put the data, whose digest the marker names."""
    return work / DATASET if fetched.get("dataset") else None


if __name__ == "__main__":
    sys.exit(main())
