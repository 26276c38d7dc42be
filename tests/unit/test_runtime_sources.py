"""Opening a source: every URI that a manifest may hold opens or is refused with a reason of its own."""

from collections.abc import Iterator
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
from penstock_runtime.failure import Failure
from penstock_runtime.sources import Context, open_source
from penstock_runtime.web import Web

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
