"""`python -m penstock_runtime.transfer`: the container of a preparation that has the network and the secrets.

It downloads, checks size, digest and signature, hands over to `inspect`, publishes what that laid out, and reports. It
never parses a model, and what `inspect` answers is only data to it: checked against the files it hashed itself.
"""

import contextlib
import os
import shutil
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from penstock.api.facts import ModelFacts
from penstock.api.preparation import REQUEST_VARIABLE, PreparationError, PreparationReport, PreparationRequest
from penstock.api.reasons import Reason

from .content import Budget, Content
from .failure import Failure, shorten
from .meeting import FAILED, FETCHED, INSPECTED, SOURCE, Meeting, PartnerDiedError
from .mounts import Places, read_secret, termination_log
from .publish import Layout, publish
from .registry import Registry, RegistryAuth, parse_reference
from .signature import load_public_key, verify
from .sources import Context, Source, open_source
from .web import Web

__all__ = ["main", "transfer"]


def main() -> int:
    """Run the container; returns its exit code."""
    places = Places.here()
    meeting = Meeting(places.work, "transfer", "inspect")
    try:
        report = PreparationReport(facts=transfer(os.environ, places, meeting))
    except Failure as failure:
        report = _failed(failure.reason, failure.message)
    except Exception as error:  # noqa: BLE001 - a defect of ours has to be reported too, and ends the other container
        traceback.print_exc()
        report = _failed(Reason.PREPARATION_FAILED, shorten(f"the transfer failed: {type(error).__name__}: {error}"))
    text = report.encode()
    if report.error:
        with contextlib.suppress(OSError):
            meeting.write(FAILED, {"reason": report.error.reason})
    termination_log(places, text)
    print(text, file=sys.stderr)
    return 0 if report.facts else 1


def _failed(reason: Reason, message: str) -> PreparationReport:
    return PreparationReport(error=PreparationError(reason=reason, message=message))


def transfer(environment: Mapping[str, str], places: Places, meeting: Meeting, web: Web | None = None) -> ModelFacts:
    """Prepare what the request asks for; raises Failure."""
    request = PreparationRequest.model_validate_json(environment[REQUEST_VARIABLE])
    web = web or Web(request.plain_http)
    store = parse_reference(request.repository)
    token = places.token.read_text().strip() if places.token.is_file() else ""
    auth = RegistryAuth(token=token)
    context = Context(web, _credentials(environment, places), places.claim, store.host, auth)
    key = _public_key(environment, places) if request.verify_signature else None
    source = open_source(request.uri, context)
    content = _fetch(source, request, places.work / SOURCE)
    if key is not None:
        verify(content, source.signed(content), *key)
    if content.archive:
        content.archive.unlink()
    meeting.write(FETCHED, {"files": len(content.files), "bytes": content.size})
    answer = _inspected(meeting)
    artifact = publish(content, _layout(answer), request.repository, Registry(store.host, web, auth))
    shutil.rmtree(places.work / SOURCE, ignore_errors=True)
    return _facts(answer, content, artifact.model_dump())


def _credentials(environment: Mapping[str, str], places: Places) -> dict[str, str]:
    name = environment.get("PENSTOCK_CREDENTIALS")
    return read_secret(places.credentials, name, "spec.model.credentialsSecretRef") if name else {}


def _public_key(environment: Mapping[str, str], places: Places) -> tuple[Any, str]:
    secret, _, key = environment.get("PENSTOCK_SIGNATURE_KEY", "").partition("/")
    path = places.signature / key
    if not key or not path.is_file():
        message = f"Secret {secret} with key {key}, named by spec.model.signature, does not exist in this namespace"
        raise Failure(Reason.SECRET_MISSING, message)
    place = f"Secret {secret}, key {key}"
    return load_public_key(path.read_bytes(), place), place


def _fetch(source: Source, request: PreparationRequest, root: Path) -> Content:
    shutil.rmtree(root, ignore_errors=True)
    content = source.fetch(root, Budget(request.max_bytes))
    if request.digest and content.digest != request.digest:
        message = (
            f"{request.uri} has the digest {content.digest}, spec.model.digest asks for {request.digest}; "
            "the content changed, or the pin is of another version"
        )
        raise Failure(Reason.DIGEST_MISMATCH, message)
    return content


def _inspected(meeting: Meeting) -> dict[str, Any]:
    try:
        meeting.wait(INSPECTED)
        answer = meeting.read(INSPECTED)
    except PartnerDiedError as error:
        message = f"{error}, as an out-of-memory kill does; raise spec.prepare.resources.limits.memory"
        raise Failure(Reason.PREPARATION_OUT_OF_MEMORY, message) from error
    except (ValueError, OSError) as error:
        raise Failure(Reason.PREPARATION_FAILED, f"the inspection's answer cannot be read: {error}") from error
    if not isinstance(answer, dict):
        raise Failure(Reason.PREPARATION_FAILED, "the inspection's answer is not a JSON object")
    if "error" in answer:
        try:
            told = PreparationError.model_validate(answer["error"])
        except ValidationError as wrong:
            raise Failure(Reason.PREPARATION_FAILED, f"the inspection's answer is malformed: {wrong}") from wrong
        raise Failure(told.reason, told.message)
    return answer


def _layout(answer: Mapping[str, Any]) -> Layout:
    files, folders = answer.get("files"), answer.get("folders", [])
    if not isinstance(files, dict) or not isinstance(folders, list):
        raise Failure(Reason.PREPARATION_FAILED, "the inspection's answer names no files")
    return Layout({str(name): str(source) for name, source in files.items()}, tuple(map(str, folders)))


def _facts(answer: Mapping[str, Any], content: Content, artifact: Mapping[str, Any]) -> ModelFacts:
    try:
        found = {**answer["facts"], "digest": content.digest, "artifact": artifact}
        facts = ModelFacts.model_validate(found)
    except (ValidationError, KeyError, TypeError) as error:
        raise Failure(Reason.PREPARATION_FAILED, f"the inspection's answer is malformed: {error}") from error
    for candidate in (facts, facts.model_copy(update={"warnings": ()})):
        try:
            PreparationReport(facts=candidate).encode()
        except ValueError:
            continue
        return candidate
    message = (
        f"the model has {len(facts.inputs)} inputs and {len(facts.outputs)} outputs or {len(facts.models)} models; "
        "their names do not fit the 4 KiB a preparation can report; shorten the names"
    )
    raise Failure(Reason.UNSUPPORTED_MODEL, message)


if __name__ == "__main__":
    sys.exit(main())
