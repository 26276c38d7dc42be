"""Sources against real servers: what they give, and what every way of misbehaving is called."""

import base64
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from moto.server import ThreadedMotoServer
from oras.client import OrasClient

from penstock.api.reasons import Reason
from penstock_runtime.content import Budget, Content, folder_digest, sums_text
from penstock_runtime.failure import Failure
from penstock_runtime.reach import Network, Reach
from penstock_runtime.registry import Registry, RegistryAuth
from penstock_runtime.signature import verify
from penstock_runtime.sources import Connection, Context, open_source
from penstock_runtime.sources.objects import ObjectSource
from penstock_runtime.sources.oci import registry_auth
from penstock_runtime.sources.s3 import S3Bucket, s3_client
from penstock_runtime.web import Web
from tests.archives import packed
from tests.integration.servers import WebServer, running_registry, web_server
from tests.integration.sourcing import fetched, files_of, quick_web, refused
from tests.integration.tls import Authority

pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
MODEL = b"\x08\x08model bytes"
KEY = ec.generate_private_key(ec.SECP256R1())


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def sign(data: bytes) -> bytes:
    return KEY.sign(data, ec.ECDSA(SHA256()))


def check_signed(uri: str, context: Context, content: Content) -> None:
    verify(content, open_source(uri, context).signed(content), KEY.public_key(), "Secret k, key pub.pem")


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    secret = {
        "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_REGION": "eu-central-1",
    }  # fmt: skip
    yield secret
    server.stop()


@pytest.fixture(scope="module")
def pushed(store: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file and a folder, pushed by oras itself."""
    folder = tmp_path_factory.mktemp("pushed")
    (folder / "repo" / "m" / "1").mkdir(parents=True)
    (folder / "digits.onnx").write_bytes(MODEL)
    (folder / "repo" / "m" / "1" / "model.onnx").write_bytes(MODEL)
    before = Path.cwd()
    os.chdir(folder)
    try:
        client = OrasClient(hostname=store, insecure=True)
        client.push(target=f"{store}/models/file:v1", files=["digits.onnx"], disable_path_validation=True)
        client.push(target=f"{store}/models/folder:v1", files=["repo"], disable_path_validation=True)
    finally:
        os.chdir(before)
    return store


@pytest.fixture(scope="module")
def bucket(s3: dict[str, str]) -> Any:
    client = s3_client(s3)
    where = {"LocationConstraint": "eu-central-1"}
    client.create_bucket(Bucket="models", CreateBucketConfiguration=where)
    objects = {
        "digits/7/model.onnx": MODEL, "repo/m/config.pbtxt": b"c", "repo/m/1/model.onnx": MODEL, "repo/m/2/": b"",
        "packed.zip": b"", "repo2/x": b"other",
    }  # fmt: skip
    for key, data in objects.items():
        client.put_object(Bucket="models", Key=key, Body=data)
    return client


class TestHttps:
    @pytest.fixture
    def context(self, web: WebServer) -> Context:
        return Context(quick_web(web.host))

    def test_a_file(self, web: WebServer, context: Context, tmp_path: Path) -> None:
        web.serve("/models/digits%20v1.onnx", MODEL)
        content = fetched(f"https://{web.host}/models/digits%20v1.onnx", context, tmp_path)
        assert files_of(content) == {"digits v1.onnx": MODEL}
        assert content.digest == digest_of(MODEL)

    def test_an_archive_keeps_the_digest_of_its_own_bytes(
        self, web: WebServer, context: Context, tmp_path: Path
    ) -> None:
        data = packed({"m/config.pbtxt": b"", "m/1/model.onnx": MODEL}, "w:gz")
        web.serve("/repo.tar.gz", data)
        content = fetched(f"https://{web.host}/repo.tar.gz", context, tmp_path)
        assert files_of(content) == {"m/config.pbtxt": b"", "m/1/model.onnx": MODEL}
        assert content.digest == digest_of(data)

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            (404, Reason.SOURCE_NOT_FOUND),
            (410, Reason.SOURCE_NOT_FOUND),
            (401, Reason.SOURCE_DENIED),
            (403, Reason.SOURCE_DENIED),
            (418, Reason.SOURCE_UNAVAILABLE),
            (500, Reason.SOURCE_UNAVAILABLE),
        ],
    )
    def test_statuses(self, web: WebServer, context: Context, tmp_path: Path, status: int, reason: Reason) -> None:
        web.serve(f"/status/{status}", b"<html>", status)
        failure = refused(f"https://{web.host}/status/{status}", context, tmp_path)
        assert failure.reason is reason
        assert str(status) in failure.message

    def test_a_passing_failure_is_tried_again(self, web: WebServer, context: Context, tmp_path: Path) -> None:
        def once(request: Any) -> None:
            web.serve("/flaky", MODEL)
            request.send_error(503)

        web.paths["/flaky"] = once
        assert files_of(fetched(f"https://{web.host}/flaky", context, tmp_path)) == {"flaky": MODEL}

    def test_a_body_that_ends_early(self, web: WebServer, context: Context, tmp_path: Path) -> None:
        def lie(request: Any) -> None:
            request.send_response(200)
            request.send_header("Content-Length", "1000")
            request.end_headers()
            request.wfile.write(MODEL)

        web.paths["/lie"] = lie
        failure = refused(f"https://{web.host}/lie", context, tmp_path)
        assert failure.reason is Reason.SOURCE_TRUNCATED
        assert "1000" in failure.message
        assert str(len(MODEL)) in failure.message

    def test_chunks_that_break_off(self, web: WebServer, context: Context, tmp_path: Path) -> None:
        def break_off(request: Any) -> None:
            request.protocol_version = "HTTP/1.1"
            request.send_response(200)
            request.send_header("Transfer-Encoding", "chunked")
            request.end_headers()
            request.wfile.write(b"100\r\nshort")
            request.close_connection = True

        web.paths["/chunks"] = break_off
        assert refused(f"https://{web.host}/chunks", context, tmp_path).reason is Reason.SOURCE_TRUNCATED

    @pytest.mark.parametrize("announce", [True, False])
    def test_a_server_that_stalls(self, web: WebServer, tmp_path: Path, announce: bool) -> None:
        def stall(request: Any) -> None:
            if announce:
                request.send_response(200)
                request.send_header("Content-Length", "1000")
                request.end_headers()
            web.ending.wait(20)

        web.paths["/stall"] = stall
        context = Context(Web((web.host,), timeout=0.2, pauses=()))
        began = time.monotonic()
        failure = refused(f"https://{web.host}/stall", context, tmp_path)
        assert failure.reason is Reason.SOURCE_UNAVAILABLE
        assert time.monotonic() - began < 10

    def test_nobody_there(self, tmp_path: Path) -> None:
        context = Context(quick_web("127.0.0.1:9"))
        assert refused("https://127.0.0.1:9/x", context, tmp_path).reason is Reason.SOURCE_UNAVAILABLE

    def test_plain_http_only_where_it_is_allowed(self, web: WebServer, tmp_path: Path) -> None:
        web.serve("/tls", MODEL)
        failure = refused(f"https://{web.host}/tls", Context(quick_web()), tmp_path)
        assert failure.reason is Reason.SOURCE_UNAVAILABLE
        assert not web.authorizations("/tls")

    @pytest.mark.parametrize("endless", [True, False])
    def test_too_large(self, web: WebServer, context: Context, tmp_path: Path, endless: bool) -> None:
        def flood(request: Any) -> None:
            request.send_response(200)
            if not endless:
                request.send_header("Content-Length", str(2 << 30))
            request.end_headers()
            try:
                for _ in range(64):
                    request.wfile.write(bytes(1 << 20))
            except OSError:
                request.close_connection = True

        web.paths["/flood"] = flood
        failure = refused(f"https://{web.host}/flood", context, tmp_path, most=3 << 20)
        assert failure.reason is Reason.TOO_LARGE
        assert str(3 << 20) in failure.message
        assert endless or str(2 << 30) in failure.message
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 3 << 20

    @pytest.mark.parametrize(
        ("secret", "header"),
        [
            ({"username": "me", "password": "pw"}, "Basic " + base64.b64encode(b"me:pw").decode()),
            ({"token": "t"}, "Bearer t"),
            ({"Authorization": "Custom x"}, "Custom x"),
            ({}, None),
        ],
    )
    def test_credentials(self, web: WebServer, tmp_path: Path, secret: dict[str, str], header: str | None) -> None:
        web.serve("/private", MODEL)
        fetched(f"https://{web.host}/private", Context(quick_web(web.host), secret), tmp_path)
        assert web.authorizations("/private")[-1] == header

    def test_a_redirect_elsewhere_gets_no_credentials(self, web: WebServer, tmp_path: Path) -> None:
        with web_server() as other:
            other.serve("/blob", MODEL)
            web.redirect("/moved", f"http://{other.host}/blob")
            web.redirect("/near", "/moved")
            context = Context(quick_web(web.host, other.host), {"token": "t"})
            content = fetched(f"https://{web.host}/near", context, tmp_path)
            assert content.digest == digest_of(MODEL)
            assert web.authorizations("/near") == web.authorizations("/moved") == ["Bearer t"]
            assert other.authorizations("/blob") == [None]

    @pytest.mark.parametrize("target", ["http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "ftp://x/y"])
    def test_a_redirect_off_https_is_not_followed(
        self, web: WebServer, context: Context, tmp_path: Path, target: str
    ) -> None:
        web.redirect("/away", target)
        failure = refused(f"https://{web.host}/away", context, tmp_path)
        assert failure.reason is Reason.SOURCE_UNAVAILABLE
        assert "only https" in failure.message

    def test_a_redirect_into_the_private_network_is_not_followed(self, web: WebServer, tmp_path: Path) -> None:
        """The server counts as an outside one here, its neighbour as one inside."""
        with web_server("127.0.0.2") as inside:
            inside.serve("/secret", MODEL)
            web.redirect("/away", f"http://{inside.host}/secret")
            zones = {"127.0.0.1": Reach.PUBLIC, "127.0.0.2": Reach.PRIVATE}
            outside = Web((web.host, inside.host), timeout=5, pauses=(), network=Network(reach=zones.get))
            failure = refused(f"https://{web.host}/away", Context(outside), tmp_path)
            assert (failure.reason, "redirect" in failure.message) == (Reason.SOURCE_DENIED, True)
            assert not inside.seen
            assert fetched(f"https://{inside.host}/secret", Context(outside), tmp_path / "direct").files
            inside.redirect("/near", f"http://{web.host}/open")
            web.serve("/open", MODEL)
            assert fetched(f"https://{inside.host}/near", Context(outside), tmp_path / "out").files

    @pytest.mark.parametrize("host", ["169.254.169.254", "[fd00:ec2::254]", "0.0.0.0", "[::ffff:169.254.169.254]"])
    def test_the_nodes_own_services_are_never_asked(self, tmp_path: Path, host: str) -> None:
        for uri, context in (
            (f"https://{host}/latest/meta-data", Context(quick_web(host))),
            (f"oci://{host}/models/x:v1", Context(quick_web(host))),
        ):
            if not uri.startswith("oci://["):
                failure = refused(uri, context, tmp_path)
                assert (failure.reason, "node's own" in failure.message) == (Reason.SOURCE_DENIED, True)

    def test_a_certificate_of_an_own_authority(self, tmp_path: Path) -> None:
        authority = Authority(tmp_path)
        with web_server(certificate=authority.certificate("127.0.0.1")) as server:
            server.serve("/m.onnx", MODEL)
            uri = f"https://{server.host}/m.onnx"
            assert refused(uri, Context(quick_web()), tmp_path).reason is Reason.SOURCE_UNAVAILABLE
            context = Context(quick_web(), connection=Connection(ca=authority.path))
            assert files_of(fetched(uri, context, tmp_path)) == {"m.onnx": MODEL}

    def test_resolve(self, web: WebServer, context: Context) -> None:
        def tagged(header: str, value: str) -> Any:
            def answer(request: Any) -> None:
                request.send_response(200)
                request.send_header(header, value)
                request.send_header("Content-Length", "5")
                request.end_headers()
                request.wfile.write(b"model")

            return answer

        source = open_source(f"https://{web.host}/moving", context)
        found = []
        for header, value in (("ETag", '"1"'), ("ETag", '"2"'), ("Last-Modified", "Sat, 21 Nov 2026 10:00:00 GMT")):
            web.paths["/moving"] = tagged(header, value)
            found.append(source.resolve())
        assert found == ['etag "1"', 'etag "2"', "changed Sat, 21 Nov 2026 10:00:00 GMT, 5 bytes"]
        web.serve("/moving", b"model")
        with pytest.raises(Failure) as caught:
            source.resolve()
        assert "remove spec.model.refresh" in caught.value.message

    def test_redirects_end(self, web: WebServer, context: Context, tmp_path: Path) -> None:
        web.redirect("/loop", "/loop")
        assert "redirects more than" in refused(f"https://{web.host}/loop", context, tmp_path).message

    def test_a_password_in_the_url(self, context: Context, tmp_path: Path) -> None:
        failure = refused("https://me:pw@host/x", context, tmp_path)
        assert failure.reason is Reason.INVALID_SPEC
        assert "pw@" not in failure.message

    def test_signatures(self, web: WebServer, context: Context, tmp_path: Path) -> None:
        uri = f"https://{web.host}/signed.onnx?version=3"
        web.serve("/signed.onnx?version=3", MODEL)
        content = fetched(uri, context, tmp_path)
        for served, reason in (
            (None, Reason.SIGNATURE_MISSING),
            (b"no base64!", Reason.SIGNATURE_INVALID),
            (base64.b64encode(sign(MODEL + b"x")), Reason.SIGNATURE_INVALID),
        ):
            if served:
                web.serve("/signed.onnx.sig?version=3", served)
            with pytest.raises(Failure) as caught:
                check_signed(uri, context, content)
            assert caught.value.reason is reason
        web.serve("/signed.onnx.sig?version=3", base64.b64encode(sign(MODEL)))
        check_signed(uri, context, content)


class TestOci:
    @pytest.fixture
    def context(self, store: str) -> Context:
        return Context(quick_web(store))

    def test_a_file(self, pushed: str, context: Context, tmp_path: Path) -> None:
        content = fetched(f"oci://{pushed}/models/file:v1", context, tmp_path / "tag")
        assert files_of(content) == {"digits.onnx": MODEL}
        again = fetched(f"oci://{pushed}/models/file@{content.digest}", context, tmp_path / "digest")
        assert again.digest == content.digest == Registry(pushed, context.web).manifest("models/file", "v1").digest

    def test_a_folder(self, pushed: str, context: Context, tmp_path: Path) -> None:
        content = fetched(f"oci://{pushed}/models/folder:v1", context, tmp_path)
        assert files_of(content) == {"repo/m/1/model.onnx": MODEL}

    def test_resolve_is_the_manifests_digest(self, pushed: str, context: Context, tmp_path: Path) -> None:
        uri = f"oci://{pushed}/models/file:v1"
        assert open_source(uri, context).resolve() == fetched(uri, context, tmp_path).digest

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("models/file:v9", Reason.SOURCE_NOT_FOUND),
            ("models/none:v1", Reason.SOURCE_NOT_FOUND),
            (f"models/file@sha256:{'0' * 64}", Reason.SOURCE_NOT_FOUND),
            ("UPPER/case", Reason.INVALID_SPEC),
        ],
    )
    def test_what_is_not_there(self, pushed: str, context: Context, tmp_path: Path, name: str, reason: Reason) -> None:
        assert refused(f"oci://{pushed}/{name}", context, tmp_path).reason is reason

    def test_too_large_before_a_layer_is_read(self, pushed: str, context: Context, tmp_path: Path) -> None:
        failure = refused(f"oci://{pushed}/models/file:v1", context, tmp_path, most=5)
        assert failure.reason is Reason.TOO_LARGE
        assert not (tmp_path / "source").exists()

    def test_cosign_signatures(self, pushed: str, context: Context, tmp_path: Path) -> None:
        uri = f"oci://{pushed}/models/file:v1"
        content = fetched(uri, context, tmp_path)
        with pytest.raises(Failure) as caught:
            check_signed(uri, context, content)
        assert caught.value.reason is Reason.SIGNATURE_MISSING
        _cosign(pushed, context.web, "models/file", content.digest, "sha256:" + "3" * 64)
        with pytest.raises(Failure) as caught:
            check_signed(uri, context, content)
        assert caught.value.reason is Reason.SIGNATURE_INVALID
        _cosign(pushed, context.web, "models/file", content.digest, content.digest)
        check_signed(uri, context, content)


def _cosign(host: str, web: Web, repository: str, digest: str, named: str) -> None:
    """Write what `cosign sign --key` writes."""
    registry = Registry(host, web)
    payload = json.dumps({"critical": {"image": {"docker-manifest-digest": named}}, "optional": None}).encode()
    for data in (payload, b"{}"):
        registry.upload(repository, digest_of(data), len(data), lambda data=data: [data])
    layer = {
        "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
        "digest": digest_of(payload),
        "size": len(payload),
        "annotations": {"dev.cosignproject.cosign/signature": base64.b64encode(sign(payload)).decode()},
    }  # fmt: skip
    kind = "application/vnd.oci.image.manifest.v1+json"
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(b"{}"), "size": 2}
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]}
    registry.put_manifest(repository, digest.replace(":", "-") + ".sig", json.dumps(manifest).encode(), kind)


class TestRegistryThatMisbehaves:
    """What a real registry never does, and how it lets people in."""

    @pytest.fixture
    def context(self, web: WebServer) -> Context:
        return Context(quick_web(web.host))

    def manifest(self, web: WebServer, name: str, layer: dict[str, Any]) -> str:
        web.serve(f"/v2/{name}/manifests/v1", json.dumps({"schemaVersion": 2, "layers": [layer]}).encode())
        return f"oci://{web.host}/{name}:v1"

    def test_a_layer_with_other_bytes(self, web: WebServer, context: Context, tmp_path: Path) -> None:
        title = {"org.opencontainers.image.title": "m.onnx"}
        uri = self.manifest(web, "changed", {"digest": digest_of(MODEL), "size": 5, "annotations": title})
        web.serve(f"/v2/changed/blobs/{digest_of(MODEL)}", MODEL[:-1] + b"X")
        failure = refused(uri, context, tmp_path)
        assert failure.reason is Reason.DIGEST_MISMATCH
        assert digest_of(MODEL) in failure.message
        assert digest_of(MODEL[:-1] + b"X") in failure.message

    def test_a_manifest_with_other_bytes_than_its_digest(
        self, web: WebServer, context: Context, tmp_path: Path
    ) -> None:
        asked = digest_of(b"{}")
        web.serve(f"/v2/lying/manifests/{asked}", b'{"layers": []}')
        failure = refused(f"oci://{web.host}/lying@{asked}", context, tmp_path)
        assert failure.reason is Reason.DIGEST_MISMATCH

    @pytest.mark.parametrize("title", ["../../etc/cron.d/x", "/etc/passwd"])
    def test_titles_that_climb(self, web: WebServer, context: Context, tmp_path: Path, title: str) -> None:
        layer = {"digest": digest_of(MODEL), "size": 5, "annotations": {"org.opencontainers.image.title": title}}
        uri = self.manifest(web, "climbing", layer)
        web.serve(f"/v2/climbing/blobs/{digest_of(MODEL)}", MODEL)
        assert refused(uri, context, tmp_path).reason is Reason.INVALID_MODEL

    def test_a_layer_without_a_name(self, web: WebServer, context: Context, tmp_path: Path) -> None:
        uri = self.manifest(web, "nameless", {"digest": digest_of(MODEL), "size": 5})
        assert refused(uri, context, tmp_path).reason is Reason.UNKNOWN_FORMAT

    def test_no_artifact_at_all(self, web: WebServer, context: Context, tmp_path: Path) -> None:
        for body in (b"[]", b"not json", b'{"layers": []}', b'{"manifests": [{}, {}]}'):
            web.serve("/v2/odd/manifests/v1", body)
            assert refused(f"oci://{web.host}/odd:v1", context, tmp_path).reason is Reason.UNKNOWN_FORMAT

    def test_a_token_server_is_asked_with_the_password(self, web: WebServer, tmp_path: Path) -> None:
        layer = {"digest": digest_of(MODEL), "size": 5, "annotations": {"org.opencontainers.image.title": "m"}}
        uri = self.manifest(web, "guarded", layer)
        web.serve(f"/v2/guarded/blobs/{digest_of(MODEL)}", MODEL)
        given = web.paths["/v2/guarded/manifests/v1"]

        def guard(request: Any) -> None:
            if request.headers.get("Authorization") == "Bearer issued":
                return given(request)
            request.send_response(401)
            challenge = f'Bearer realm="http://{web.host}/token",service="s"'
            request.send_header("WWW-Authenticate", challenge)
            request.end_headers()
            return None

        web.paths["/v2/guarded/manifests/v1"] = guard
        asked = "/token?service=s&scope=repository%3Aguarded%3Apull"
        web.serve(asked, b'{"token": "issued"}')
        context = Context(quick_web(web.host), {"username": "me", "password": "pw"})
        assert files_of(fetched(uri, context, tmp_path)) == {"m": MODEL}
        assert web.authorizations(asked) == ["Basic " + base64.b64encode(b"me:pw").decode()]
        assert web.authorizations(f"/v2/guarded/blobs/{digest_of(MODEL)}") == ["Bearer issued"]

    def test_the_stores_own_token_goes_to_the_store_alone(self, web: WebServer, tmp_path: Path) -> None:
        uri = self.manifest(web, "own", {"digest": "x", "size": 5})
        for host, header in ((web.host, "Bearer push"), ("other:5000", None)):
            context = Context(quick_web(web.host), store_host=host, store_auth=RegistryAuth(token="push"))
            refused(uri, context, tmp_path)
            assert web.authorizations("/v2/own/manifests/v1")[-1] == header

    def test_refused_credentials(self, web: WebServer, tmp_path: Path) -> None:
        web.serve("/v2/closed/manifests/v1", b'{"errors": [{"code": "DENIED", "message": "no"}]}', 403)
        failure = refused(f"oci://{web.host}/closed:v1", Context(quick_web(web.host), {"token": "t"}), tmp_path)
        assert failure.reason is Reason.SOURCE_DENIED
        assert "DENIED" in failure.message

    def test_logins_of_a_docker_config(self) -> None:
        entry = {"auth": base64.b64encode(b"me:p:w").decode()}
        config = {
            ".dockerconfigjson": json.dumps({"auths": {"reg.example": entry, "x": {"username": "u", "password": "p"}}})
        }
        assert registry_auth(config, "reg.example") == RegistryAuth(username="me", password="p:w")
        assert registry_auth(config, "x") == RegistryAuth(username="u", password="p")
        for broken in (config, {".dockerconfigjson": "{}"}, {".dockerconfigjson": "["}):
            with pytest.raises(Failure) as caught:
                registry_auth(broken, "elsewhere")
            assert caught.value.reason is Reason.SOURCE_DENIED


class TestS3:
    @pytest.fixture
    def context(self, s3: dict[str, str], bucket: Any) -> Context:
        return Context(quick_web(), s3)

    def test_an_object(self, context: Context, tmp_path: Path) -> None:
        content = fetched("s3://models/digits/7/model.onnx", context, tmp_path)
        assert (files_of(content), content.digest) == ({"model.onnx": MODEL}, digest_of(MODEL))

    @pytest.mark.parametrize("uri", ["s3://models/repo", "s3://models/repo/"])
    def test_a_prefix_is_a_folder(self, context: Context, tmp_path: Path, uri: str) -> None:
        content = fetched(uri, context, tmp_path)
        assert files_of(content) == {"m/1/model.onnx": MODEL, "m/config.pbtxt": b"c"}
        assert content.digest == folder_digest(content.files)

    def test_what_is_not_there(self, context: Context, tmp_path: Path) -> None:
        for uri in ("s3://models/none", "s3://nowhere/x"):
            assert refused(uri, context, tmp_path).reason is Reason.SOURCE_NOT_FOUND

    def test_too_large(self, context: Context, tmp_path: Path) -> None:
        failure = refused("s3://models/digits/7/model.onnx", context, tmp_path, most=5)
        assert (failure.reason, "5 bytes" in failure.message) == (Reason.TOO_LARGE, True)

    def test_signatures(self, context: Context, bucket: Any, tmp_path: Path) -> None:
        for uri, key in (
            ("s3://models/digits/7/model.onnx", "digits/7/model.onnx.sig"),
            ("s3://models/repo/", "repo.sig"),
        ):
            content = fetched(uri, context, tmp_path / key)
            with pytest.raises(Failure) as caught:
                check_signed(uri, context, content)
            assert caught.value.reason is Reason.SIGNATURE_MISSING
            signed = MODEL if len(content.files) == 1 else sums_text(content.files)
            bucket.put_object(Bucket="models", Key=key, Body=base64.b64encode(sign(signed)))
            check_signed(uri, context, content)

    def test_a_denied_object_and_a_body_that_ends_early(self, web: WebServer, tmp_path: Path) -> None:
        denied = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
        web.serve("/b/denied", denied, 403)

        def lie(request: Any) -> None:
            request.send_response(200)
            request.send_header("Content-Length", "1000")
            request.end_headers()
            request.wfile.write(MODEL)

        web.paths["/b/cut"] = lie
        secret = {"AWS_ENDPOINT_URL": f"http://{web.host}"}
        client = s3_client(secret, timeout=2)
        for key, reason in (("denied", Reason.SOURCE_DENIED), ("cut", Reason.SOURCE_TRUNCATED)):
            with pytest.raises(Failure) as caught:
                ObjectSource(S3Bucket("b", client), key).fetch(tmp_path / key, Budget(1 << 20))
            assert caught.value.reason is reason
        assert web.authorizations("/b/cut") == [None], "without keys it is anonymous"

    def test_half_a_key_pair(self) -> None:
        with pytest.raises(Failure) as caught:
            s3_client({"AWS_ACCESS_KEY_ID": "id"})
        assert caught.value.reason is Reason.SOURCE_DENIED


class TestClaim:
    @pytest.fixture
    def context(self, tmp_path: Path) -> Context:
        (tmp_path / "claim").mkdir()
        return Context(quick_web(), claim=tmp_path / "claim")

    def test_a_file_a_folder_and_an_archive(self, context: Context, tmp_path: Path) -> None:
        (context.claim / "repo" / "1").mkdir(parents=True)
        (context.claim / "repo" / "1" / "model.onnx").write_bytes(MODEL)
        (context.claim / "repo" / "latest.onnx").symlink_to("1/model.onnx")
        (context.claim / "a.tar.gz").write_bytes(packed({"x": b"1"}, "w:gz"))
        content = fetched("pvc://data/repo/1/model.onnx", context, tmp_path / "file")
        assert (files_of(content), content.digest) == ({"model.onnx": MODEL}, digest_of(MODEL))
        folder = fetched("pvc://data/repo", context, tmp_path / "folder")
        assert files_of(folder) == {"1/model.onnx": MODEL, "latest.onnx": MODEL}
        assert files_of(fetched("pvc://data/a.tar.gz", context, tmp_path / "archive")) == {"x": b"1"}

    def test_resolve_changes_with_size_and_time(self, context: Context) -> None:
        path = context.claim / "repo" / "m.onnx"
        path.parent.mkdir()
        found = set()
        for data, when in ((b"1", 1), (b"22", 1), (b"22", 2)):
            path.write_bytes(data)
            os.utime(path, (when, when))
            for uri in ("pvc://data/repo", "pvc://data/repo/m.onnx"):
                found.add(open_source(uri, context).resolve())
                found.add(open_source(uri, context).resolve())
        assert len(found) == 3, "a folder of one file is known as that file is"

    def test_what_is_not_there(self, context: Context, tmp_path: Path) -> None:
        (context.claim / "empty").mkdir()
        for path in ("none", "empty"):
            failure = refused(f"pvc://data/{path}", context, tmp_path)
            assert failure.reason is Reason.SOURCE_NOT_FOUND
            assert f"pvc://data/{path}" in failure.message

    def test_links_stay_inside(self, context: Context, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("secret")
        (context.claim / "out").symlink_to(tmp_path / "token")
        (context.claim / "loop").symlink_to("loop")
        for name in ("out", "loop"):
            assert refused(f"pvc://data/{name}", context, tmp_path / name).reason is Reason.SOURCE_DENIED
        with pytest.raises(Failure):
            fetched("pvc://data/../token", context, tmp_path / "climb")

    def test_a_pipe_is_no_file(self, context: Context, tmp_path: Path) -> None:
        os.mkfifo(context.claim / "pipe")
        assert refused("pvc://data/pipe", context, tmp_path).reason is Reason.SOURCE_DENIED

    def test_signatures(self, context: Context, tmp_path: Path) -> None:
        (context.claim / "m.onnx").write_bytes(MODEL)
        content = fetched("pvc://data/m.onnx", context, tmp_path)
        with pytest.raises(Failure) as caught:
            check_signed("pvc://data/m.onnx", context, content)
        assert caught.value.reason is Reason.SIGNATURE_MISSING
        (context.claim / "m.onnx.sig").write_bytes(base64.b64encode(sign(MODEL)))
        check_signed("pvc://data/m.onnx", context, content)


def test_an_unknown_scheme(tmp_path: Path) -> None:
    failure = refused("ftp://host/x", Context(quick_web()), tmp_path)
    assert failure.reason is Reason.INVALID_SPEC
    assert "https://" in failure.message
