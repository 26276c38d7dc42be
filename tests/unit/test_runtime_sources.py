"""Opening a source: every URI that a manifest may hold opens or is refused with a reason of its own."""

import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import botocore.session
import pytest
from botocore.loaders import create_loader
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from penstock.api.reasons import Reason
from penstock.api.rules import URI_CLEAN, URI_FORM, URI_WITHOUT_PARENTS
from penstock_runtime.content import Budget
from penstock_runtime.failure import Failure
from penstock_runtime.sources import Context, open_source
from penstock_runtime.web import Answer, Truncated, Unreachable, Web

STARTS = ("oci://h", "s3://h/", "gs://h/", "az://h/", "https://h", "hf://h/n", "models:/n/1", "pvc://h/")
PIECES = st.sampled_from(
    ("host", "[::1", "]", ":", ":99999", "/", "/a", "@", "%", "%2e%2e", "#", "?", "\\", "℀", "é", "1")
)
SECRETS = (
    {},
    {"MLFLOW_TRACKING_URI": "http://tracking:5000"},
    {"AZURE_STORAGE_ACCOUNT_NAME": "x", "AZURE_STORAGE_KEY": "!!"},
    {"AWS_ENDPOINT_URL": "http://[bad"},
    {"credentials.json": "[]"},
    {".dockerconfigjson": '{"auths": []}'},
)


@pytest.fixture(scope="module", autouse=True)
def s3_described_once() -> Iterator[None]:
    """Each new S3 client reads megabytes that describe S3; here all clients read them once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", cache(create_loader))
        yield


def opened(uri: str, secret: dict[str, str]) -> None:
    open_source(uri, Context(Web(), secret, Path("/nowhere"), "registry:5000"))


@pytest.mark.parametrize("uri", ["oci://[::1/digits", "https://℀/digits.onnx"])
def test_a_host_that_is_none_is_the_spec_s_fault_and_not_tried_again(uri):
    assert URI_FORM.holds(uri)
    with pytest.raises(Failure, match="names no host") as caught:
        opened(uri, {})
    assert caught.value.reason is Reason.INVALID_SPEC


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.sampled_from(STARTS), st.lists(PIECES, max_size=5), st.sampled_from(SECRETS))
def test_what_the_rules_accept_opens_or_is_a_failure(start, pieces, secret):
    uri = start + "".join(pieces)
    assume(all(rule.holds(uri) for rule in (URI_FORM, URI_CLEAN, URI_WITHOUT_PARENTS)))
    with suppress(Failure):
        opened(uri, secret)


SIGNED = "https://account.blob.core.windows.net/models/digits.onnx?sv=2024&sig=TopSecret#part"


class Body(io.BytesIO):
    """What has come of an answer before an error."""

    def __init__(self, data: bytes, error: Exception | None = None) -> None:
        super().__init__(data)
        self._error = error

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        if not piece and self._error:
            raise self._error
        return piece


ENDS = {
    "shorter than announced": (Body(b"123"), Truncated),
    "a lost connection": (Body(b"123", ConnectionResetError("reset by peer")), Truncated),
    "a silence": (Body(b"123", TimeoutError("timed out")), Unreachable),
    "too large a document": (Body(b"1" * 9), ValueError),
}


@pytest.mark.parametrize("case", ENDS)
def test_no_sentence_about_an_answer_holds_what_its_url_was_signed_with(case):
    body, expected = ENDS[case]
    with Answer(200, {"Content-Length": "10"}, SIGNED, body) as answer, pytest.raises(expected) as caught:
        answer.text(most=8)
    assert "https://account.blob.core.windows.net/models/digits.onnx" in str(caught.value)
    assert "sig" not in str(caught.value)


class Redirecting(Web):
    """A service that sends everybody on."""

    def __init__(self, target: str) -> None:
        super().__init__(pauses=())
        self._target = target

    def _once(self, *_: object) -> Answer:
        return Answer(307, {"Location": self._target}, SIGNED, Body(b""))


@pytest.mark.parametrize(
    "target", ["http://elsewhere/blob?sig=TopSecret", "http://me:TopSecret@elsewhere/blob", f"{SIGNED}&again"]
)
def test_no_sentence_about_a_redirect_holds_a_signature_or_a_password(target):
    with pytest.raises(
        Unreachable, match=r"https://account\.blob\.core\.windows\.net/models/digits\.onnx redirect"
    ) as caught:
        Redirecting(target).send("GET", SIGNED)
    assert "Secret" not in str(caught.value)


def test_no_sentence_about_silence_holds_a_password():
    with pytest.raises(Unreachable, match=r"^127\.0\.0\.1:1 gives no answer") as caught:
        Web(pauses=()).send("GET", "https://me:TopSecret@127.0.0.1:1/blob")
    assert "Secret" not in str(caught.value)


class Short(Web):
    """A service whose answers break off."""

    def send(self, method: str, url: str, headers: Mapping[str, str] | None = None, body: object = None) -> Answer:
        return Answer(200, {"Content-Length": "10"}, url, Body(b"123"))


def test_a_shared_access_signature_stays_secret_when_a_download_breaks_off(tmp_path):
    secret = {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_SAS_TOKEN": "?sv=2024&sig=TopSecret"}
    source = open_source("az://models/digits.onnx", Context(Short(), secret, tmp_path, "registry:5000"))
    with pytest.raises(Failure) as caught:
        source.fetch(tmp_path / "source", Budget(100))
    assert caught.value.reason is Reason.SOURCE_TRUNCATED
    assert "TopSecret" not in caught.value.message
