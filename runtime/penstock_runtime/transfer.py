"""`python -m penstock_runtime.transfer`: the container of a preparation that has the network and the secrets.

It fetches, checks sizes, digests and signatures, hands over to the opener, publishes what that laid out, and reports.
It never loads a model, and what other containers answer is only data to it: checked against the files it hashed itself.
"""

import contextlib
import os
import shutil
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from penstock.api.preparation import REQUEST_VARIABLE, Needs, PreparationError, PreparationReport, PreparationRequest
from penstock.api.reasons import Reason
from penstock.api.termination import report_bytes

from .conclusion import Conclusion, Measure
from .failure import Failure, shorten
from .gathering import Gathered, Gatherer
from .keeping import read_kept, write_kept
from .meeting import (
    ACCEPTED,
    FAILED,
    FETCHED,
    INSPECTED,
    MEASURED,
    OPENED,
    PREPARED,
    REUSED,
    SOURCE,
    Meeting,
    PartnerDiedError,
)
from .mounts import Places, termination_log
from .registry import Registry, RegistryAuth, parse_reference
from .reporting import fit_report
from .reuse import Reused, conversion_key, find_result
from .web import Web

__all__ = ["Transfer", "main"]

_FIRST, _LAST, _LOOK = "fetch", "publish", "resolve"
_STORE_SECONDS = 120.0
"""An upgrade of the chart replaces the store's only pod; what was made for an hour is not to be made again for that."""


def main() -> int:
    """Run the container; returns its exit code."""
    places = Places.here()
    mode = os.environ.get("PENSTOCK_MODE", "")
    places.work.mkdir(parents=True, exist_ok=True)
    meeting = Meeting(places.work, "transfer", "inspect")
    try:
        report = Transfer.read(os.environ, places, meeting).run(mode)
    except Failure as failure:
        report = _failed(failure.reason, failure.message)
    except Exception as error:  # noqa: BLE001 - a defect of ours has to be reported too, and ends the other containers
        traceback.print_exc()
        report = _failed(Reason.PREPARATION_FAILED, shorten(f"the transfer failed: {type(error).__name__}: {error}"))
    if report is None:
        return 0
    if report.error or report.needs:
        with contextlib.suppress(OSError):
            meeting.write(FAILED, {})
    text = fit_report(report).encode(report_bytes(os.environ))
    termination_log(places, text)
    print(text, file=sys.stderr)
    return 1 if report.error or (report.needs and mode == _FIRST) else 0


def _failed(reason: Reason, message: str) -> PreparationReport:
    return PreparationReport(error=PreparationError(reason=reason, message=message))


class Transfer:
    """One preparation, as far as this container goes."""

    def __init__(self, gatherer: Gatherer, registry: Registry, meeting: Meeting) -> None:
        self._gatherer = gatherer
        self._request = gatherer.request
        self._places = gatherer.places
        self._registry = registry
        self._meeting = meeting

    @classmethod
    def read(
        cls, environment: Mapping[str, str], places: Places, meeting: Meeting, web: Web | None = None
    ) -> "Transfer":
        """From the pod's variables and mounts."""
        request = PreparationRequest.model_validate_json(environment[REQUEST_VARIABLE])
        web = web or Web(request.plain_http)
        store = parse_reference(request.repository)
        auth = RegistryAuth(token=places.token.read_text().strip() if places.token.is_file() else "")
        patient = web.patient(float(environment.get("PENSTOCK_STORE_SECONDS", _STORE_SECONDS)))
        gatherer = Gatherer(environment, places, request, web, store.host, auth)
        return cls(gatherer, Registry(store.host, patient, auth), meeting)

    def run(self, mode: str) -> PreparationReport | None:
        """The report, or None where the next container goes on; raises Failure.

        Modes: empty for a whole preparation, `fetch` and `publish` for the two ends of one whose containers run one
        after the other, `resolve` to ask only what the URI means now.
        """
        if mode == _LOOK:
            return PreparationReport(resolved=self._gatherer.resolve())
        if mode == _LAST:
            return self._conclude(read_kept(self._places.keep), None, lambda _: self._answered(MEASURED, "measure"))
        gathered = self._gatherer.gather()
        if mode == _FIRST:
            return self._hand_on(gathered)
        opened = self._opened()
        key = conversion_key(self._request, gathered, opened)
        reused = find_result(key, self._request, gathered, self._registry, self._places.work / PREPARED / REUSED)
        self._meeting.write(FETCHED, _fetched(gathered, reused))
        return self._conclude(gathered, reused, self._measure)

    def _hand_on(self, gathered: Gathered) -> PreparationReport | None:
        """Where a person's own containers come next, nothing is started that another opener would have to repeat."""
        from .finding import Asked, SourceTree  # noqa: PLC0415 - this container looks at formats in this mode alone
        from .routes import find_route  # noqa: PLC0415

        asked = Asked.read(self._request.model_dump(mode="json", by_alias=True, exclude_none=True))
        _, needs = find_route(SourceTree.read(gathered.content.root, gathered.only), asked)
        if needs is not None:
            return self._needs(needs, gathered)
        write_kept(self._places.keep, gathered)
        self._meeting.write(FETCHED, _fetched(gathered, None))
        return None

    def _conclude(self, gathered: Gathered, reused: Reused | None, measure: Measure) -> PreparationReport:
        answer = self._answered(INSPECTED, "inspect")
        if "needs" in answer:
            return self._needs(answer["needs"], gathered)
        opened = self._opened()
        conclusion = Conclusion(self._request, self._places, self._registry, gathered, opened, reused)
        report = conclusion.draw(answer, measure)
        shutil.rmtree(self._places.work / SOURCE, ignore_errors=True)
        return report

    def _needs(self, told: Any, gathered: Gathered) -> PreparationReport:
        try:
            needs = Needs(format=told["format"], opener=told["opener"], size_bytes=gathered.content.size)
        except (ValueError, TypeError, KeyError) as error:
            raise Failure(Reason.PREPARATION_FAILED, f"the inspection's answer is malformed: {error}") from error
        return PreparationReport(needs=needs, resolved=gathered.resolved)

    def _opened(self) -> dict[str, Any]:
        return self._answered(OPENED, "inspect")

    def _measure(self, accepted: dict[str, Any]) -> dict[str, Any]:
        """What the server did with a model that was accepted; an answer that was there before the question is none."""
        self._meeting.clear(MEASURED)
        self._meeting.write(ACCEPTED, accepted)
        return self._answered(MEASURED, "measure")

    def _answered(self, marker: str, partner: str) -> dict[str, Any]:
        """What another container said; raises Failure, in the words of one that ended without a word too."""
        try:
            self._meeting.wait(marker, partner=partner)
            answer = self._meeting.read(marker)
        except PartnerDiedError as error:
            raise _partner_died(error) from error
        except (ValueError, OSError) as error:
            raise Failure(Reason.PREPARATION_FAILED, f"the answer of {partner} cannot be read: {error}") from error
        if not isinstance(answer, dict):
            raise Failure(Reason.PREPARATION_FAILED, f"the answer of {partner} is not a JSON object")
        return answer


def _partner_died(error: PartnerDiedError) -> Failure:
    if error.partner == "inspect":
        message = f"{error}, as an out-of-memory kill does; raise spec.prepare.resources.limits.memory"
        return Failure(Reason.PREPARATION_OUT_OF_MEMORY, message)
    message = f"{error}, so nothing was measured; look at the Job's pod, or raise spec.prepare.timeout"
    return Failure(Reason.PREPARATION_FAILED, message)


def _fetched(gathered: Gathered, reused: Reused | None) -> dict[str, Any]:
    content = gathered.content
    return {
        "root": str(content.root),
        "only": gathered.only,
        "files": len(content.files),
        "bytes": content.size,
        "digest": content.digest,
        "dataset": gathered.dataset,
        "calibration": gathered.calibration,
        "reused": reused.to_marker() if reused else None,
    }


if __name__ == "__main__":
    sys.exit(main())
