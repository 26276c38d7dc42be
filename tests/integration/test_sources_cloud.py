"""The clouds' stores, MLflow and DVC against real servers; a model hub against a small one that says what it is."""

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from moto.server import ThreadedMotoServer

from penstock.api.reasons import Reason
from penstock_runtime.content import folder_digest
from penstock_runtime.sources import Connection, Context, open_source
from penstock_runtime.sources.azure import _shared_key, azure_account
from penstock_runtime.sources.s3 import s3_client
from penstock_runtime.web import Web
from tests.integration.foreign import CONTAINER_KEY, azurite, fake_gcs, mlflow_server
from tests.integration.servers import WebServer, web_server
from tests.integration.sourcing import fetched, files_of, quick_web, refused
from tests.integration.tls import Authority

pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
FILES = {
    "repo/m/config.pbtxt": b"c",
    "repo/m/1/model é.onnx": b"\x08\x08model",
    "digits.onnx": b"\x08\x08other",
    "empty": b"",
}


def check_store(base: str, context: Context, folder: Path) -> None:
    """What every object store has to do with FILES in it."""
    single = fetched(f"{base}/digits.onnx", context, folder / "single")
    assert files_of(single) == {"digits.onnx": FILES["digits.onnx"]}
    for uri in (f"{base}/repo", f"{base}/repo/"):
        content = fetched(uri, context, folder / str(len(uri)))
        assert files_of(content) == {"m/1/model é.onnx": FILES["repo/m/1/model é.onnx"], "m/config.pbtxt": b"c"}
        assert content.digest == folder_digest(content.files)
    assert refused(f"{base}/none", context, folder / "none").reason is Reason.SOURCE_NOT_FOUND
    failure = refused(f"{base}/repo", context, folder / "large", most=3)
    assert (failure.reason, "3 bytes" in failure.message) == (Reason.TOO_LARGE, True)


def check_resolve(uri: str, context: Context, change: Any) -> None:
    """The same until something changes, and something else then."""
    first = open_source(uri, context).resolve()
    assert open_source(uri, context).resolve() == first
    assert 0 < len(first) <= 256
    change()
    assert open_source(uri, context).resolve() != first


class TestGoogle:
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        with fake_gcs(tmp_path_factory.mktemp("gcs")) as url:
            put_json(f"{url}/storage/v1/b", {"name": "models"})
            for name, data in FILES.items():
                put_google(url, name, data)
            yield url

    def test_objects_and_prefixes(self, server: str, tmp_path: Path) -> None:
        context = Context(quick_web(), connection=Connection(server))
        check_store("gs://models", context, tmp_path)
        check_store("gs://models", Context(quick_web(), {"STORAGE_EMULATOR_HOST": server}), tmp_path / "secret")

    @pytest.mark.parametrize("uri", ["gs://models/moving.onnx", "gs://models/moving"])
    def test_resolve(self, server: str, uri: str) -> None:
        for name in ("moving.onnx", "moving/x"):
            put_google(server, name, b"1")
        context = Context(quick_web(), connection=Connection(server))
        check_resolve(uri, context, lambda: [put_google(server, name, b"2") for name in ("moving.onnx", "moving/x")])

    def test_other_bytes_than_the_recorded_hash(self, tmp_path: Path) -> None:
        with web_server() as web:
            known = {"name": "m", "size": "5", "generation": "7", "md5Hash": base64.b64encode(bytes(16)).decode()}
            fields = quote("name,size,generation,md5Hash,contentEncoding", safe="")
            web.serve(f"/storage/v1/b/b/o/m?fields={fields}", json.dumps(known).encode())
            web.serve("/storage/v1/b/b/o/m?alt=media&generation=7", b"model")
            context = Context(quick_web(), {"token": "t"}, connection=Connection(f"http://{web.host}"))
            assert refused("gs://b/m", context, tmp_path).reason is Reason.DIGEST_MISMATCH
            assert {headers["Authorization"] for _, _, headers in web.seen} == {"Bearer t"}

    def test_a_service_accounts_key_is_exchanged_for_a_token(self, server: str, tmp_path: Path) -> None:
        key = rsa.generate_private_key(65537, 2048)
        with web_server() as web:
            asked = token_endpoint(web, "/token")
            account = {
                "type": "service_account", "client_email": "me@project", "token_uri": f"http://{web.host}/token",
                "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
                "private_key_id": "k1",
            }  # fmt: skip
            web.serve("/storage/v1/b/b/o/m", b"", 403)
            context = Context(quick_web(), {"credentials.json": json.dumps(account)}, connection=Connection(server))
            assert files_of(fetched("gs://models/digits.onnx", context, tmp_path))
            (form,) = asked
            head, claims, signature = form["assertion"][0].split(".")
            key.public_key().verify(unpad(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), SHA256())
            said = json.loads(unpad(claims))
            assert (said["iss"], said["aud"]) == ("me@project", account["token_uri"])
            assert json.loads(unpad(head))["kid"] == "k1"

    @pytest.mark.parametrize("text", ["no json", '{"type": "authorized_user"}', '{"type": "service_account"}'])
    def test_a_key_that_is_none(self, text: str, tmp_path: Path) -> None:
        failure = refused("gs://b/m", Context(quick_web(), {"key.json": text}), tmp_path)
        assert failure.reason is Reason.SOURCE_DENIED
        assert "key.json" in failure.message

    @pytest.mark.parametrize(
        ("email", "works"), [("me@p.iam.gserviceaccount.com", True), ("1-compute@developer.gserviceaccount.com", False)]
    )
    def test_keyless_never_as_the_node(self, server: str, tmp_path: Path, email: str, works: bool) -> None:
        with web_server() as web:
            base = "/computeMetadata/v1/instance/service-accounts/default"
            web.serve(f"{base}/email", email.encode())
            web.serve(f"{base}/token", b'{"access_token": "t", "expires_in": 3600}')
            environment = {"PENSTOCK_KEYLESS": "1", "GCE_METADATA_HOST": web.host}
            context = Context(quick_web(), connection=Connection(server), environment=environment)
            if works:
                assert files_of(fetched("gs://models/digits.onnx", context, tmp_path))
            else:
                assert refused("gs://models/digits.onnx", context, tmp_path).reason is Reason.SOURCE_DENIED
            assert all(headers["Metadata-Flavor"] == "Google" for _, _, headers in web.seen)
            web.seen.clear()
            for other in (
                Context(quick_web(), connection=Connection(server), environment={"GCE_METADATA_HOST": web.host}),
                Context(quick_web(), {"token": "t"}, connection=Connection(server), environment=environment),
            ):
                fetched("gs://models/digits.onnx", other, tmp_path / str(id(other)))
            assert not web.seen, "it is asked only for a service account that was named, and never beside a Secret"


class TestAzure:
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        with azurite(tmp_path_factory.mktemp("azurite")) as endpoint:
            put_azure(endpoint, "", b"", "?restype=container")
            for name, data in FILES.items():
                put_azure(endpoint, name, data)
            yield endpoint

    def secret(self, endpoint: str) -> dict[str, str]:
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1",
            "AZURE_STORAGE_KEY": CONTAINER_KEY,
            "AZURE_STORAGE_ENDPOINT": endpoint,
        }

    def test_blobs_and_prefixes(self, server: str, tmp_path: Path) -> None:
        check_store("az://models", Context(quick_web(), self.secret(server)), tmp_path)
        text = f"AccountName=devstoreaccount1;AccountKey={CONTAINER_KEY};BlobEndpoint={server};"
        context = Context(quick_web(), {"AZURE_STORAGE_CONNECTION_STRING": text})
        check_store("az://models", context, tmp_path / "string")

    @pytest.mark.parametrize("uri", ["az://models/moving.onnx", "az://models/moving"])
    def test_resolve(self, server: str, uri: str) -> None:
        for name in ("moving.onnx", "moving/x"):
            put_azure(server, name, b"1")
        context = Context(quick_web(), self.secret(server))
        check_resolve(uri, context, lambda: [put_azure(server, name, b"2") for name in ("moving.onnx", "moving/x")])

    def test_refusals(self, server: str, tmp_path: Path) -> None:
        nobody = Context(quick_web(), connection=Connection(server))
        wrong = {**self.secret(server), "AZURE_STORAGE_KEY": base64.b64encode(b"wrong").decode()}
        for context in (nobody, Context(quick_web(), wrong)):
            assert refused("az://models/digits.onnx", context, tmp_path).reason in (
                Reason.SOURCE_DENIED,
                Reason.SOURCE_NOT_FOUND,
            )
        failure = refused("az://models/digits.onnx", Context(quick_web()), tmp_path)
        assert (failure.reason, "connection.endpoint" in failure.message) == (Reason.INVALID_SPEC, True)

    def test_keyless_over_tls_with_an_own_ca(self, tmp_path: Path) -> None:
        """The token file of the Job's service account is exchanged; Azurite checks the token's claims."""
        authority = Authority(tmp_path)
        certificate, key = authority.certificate("127.0.0.1")
        (tmp_path / "azurite").mkdir()
        (tmp_path / "token").write_text("of the kubelet\n")
        options = ["--cert", str(certificate), "--key", str(key), "--oauth", "basic"]
        with web_server() as web, azurite(tmp_path / "azurite", *options, scheme="https") as endpoint:
            asked = token_endpoint(web, "/tenant/oauth2/v2.0/token", entra_token())
            environment = {
                "AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client", "AZURE_AUTHORITY_HOST": f"http://{web.host}/",
                "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "token"),
            }  # fmt: skip
            context = Context(quick_web(), connection=Connection(endpoint, ca=authority.path), environment=environment)
            account = azure_account(context)
            put_azure(endpoint, "", b"", "?restype=container", context=authority.web())
            put_azure(endpoint, "m.onnx", b"model", context=authority.web())
            assert files_of(fetched("az://models/m.onnx", context, tmp_path)) == {"m.onnx": b"model"}
            assert asked[0]["client_assertion"] == ["of the kubelet"]
            assert (account.endpoint, account.signature) == (endpoint, "")
            distrusting = Context(quick_web(), connection=Connection(endpoint), environment=environment)
            assert refused("az://models/m.onnx", distrusting, tmp_path / "x").reason is Reason.SOURCE_UNAVAILABLE


class TestKeylessS3:
    @pytest.fixture(scope="class")
    @classmethod
    def moto(cls) -> Iterator[str]:
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        client = s3_client({"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_ENDPOINT_URL": url})
        client.create_bucket(Bucket="keyless")
        for name, data in FILES.items():
            client.put_object(Bucket="keyless", Key=name, Body=data)
        yield url
        server.stop()

    def test_by_connection_alone(self, moto: str, tmp_path: Path) -> None:
        secret = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
        check_store("s3://keyless", Context(quick_web(), secret, connection=Connection(moto, "eu-west-1")), tmp_path)

    @pytest.mark.parametrize("uri", ["s3://keyless/moving.onnx", "s3://keyless/moving"])
    def test_resolve(self, moto: str, uri: str) -> None:
        secret = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_ENDPOINT_URL": moto}
        client = s3_client(secret)

        def put(data: bytes) -> None:
            for name in ("moving.onnx", "moving/x"):
                client.put_object(Bucket="keyless", Key=name, Body=data)

        put(b"1")
        check_resolve(uri, Context(quick_web(), secret), lambda: put(b"2"))

    def test_a_web_identity(self, moto: str, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("jwt")
        environment = {
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/reader",
            "AWS_ENDPOINT_URL_STS": moto, "AWS_REGION": "eu-west-1",
        }  # fmt: skip
        context = Context(quick_web(), connection=Connection(moto), environment=environment)
        assert files_of(fetched("s3://keyless/digits.onnx", context, tmp_path))
        (tmp_path / "token").unlink()
        assert refused("s3://keyless/digits.onnx", context, tmp_path / "x").reason is Reason.SOURCE_DENIED

    def test_a_credentials_agent(self, moto: str, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("agent's")
        with web_server() as web:
            given = {"AccessKeyId": "ASIA1", "SecretAccessKey": "s", "Token": "t", "Expiration": "2999-01-01T00:00:00Z"}
            web.serve("/v1/credentials", json.dumps(given).encode())
            environment = {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{web.host}/v1/credentials",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(tmp_path / "token"),
            }
            context = Context(quick_web(), connection=Connection(moto), environment=environment)
            assert files_of(fetched("s3://keyless/digits.onnx", context, tmp_path))
            assert web.authorizations("/v1/credentials") == ["agent's"]
            web.seen.clear()
            secret = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key"}
            both = Context(quick_web(), secret, connection=Connection(moto), environment=environment)
            assert files_of(fetched("s3://keyless/digits.onnx", both, tmp_path / "both"))
            assert not web.seen, "a Secret wins"

    @pytest.mark.parametrize("uri", ["http://169.254.169.254/latest/meta-data/iam", "http://10.0.0.1/x"])
    def test_the_nodes_own_identity_is_never_asked_for(self, uri: str, tmp_path: Path) -> None:
        context = Context(quick_web(), environment={"AWS_CONTAINER_CREDENTIALS_FULL_URI": uri})
        assert refused("s3://keyless/x", context, tmp_path).reason is Reason.SOURCE_DENIED

    def test_an_endpoint_that_is_the_nodes(self, tmp_path: Path) -> None:
        failure = refused(
            "s3://keyless/x", Context(quick_web(), connection=Connection("http://169.254.169.254")), tmp_path
        )
        assert (failure.reason, "node's own services" in failure.message) == (Reason.SOURCE_DENIED, True)


@pytest.mark.timeout(900)
class TestMlflow:
    """The server takes a minute to start on a busy machine."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        folder = tmp_path_factory.mktemp("mlflow")
        (folder / "model" / "data").mkdir(parents=True)
        (folder / "model" / "MLmodel").write_bytes(b"flavors: {}")
        (folder / "model" / "data" / "model é.onnx").write_bytes(b"\x08\x08model")
        with mlflow_server(folder) as url:
            register(url, folder / "model")
            yield url

    def context(self, server: str, **words: Any) -> Context:
        return Context(quick_web(), connection=Connection(server), **words)

    @pytest.mark.parametrize(
        "uri", ["models:/digits@champion", "models:/digits/1", "models:/digits/2", "models:/digits/3"]
    )
    def test_an_alias_and_versions(self, server: str, tmp_path: Path, uri: str) -> None:
        """Version 1 points to a run, 2 to the proxy's own path, 3 to a logged model."""
        content = fetched(uri, self.context(server), tmp_path)
        assert files_of(content) == {"MLmodel": b"flavors: {}", "data/model é.onnx": b"\x08\x08model"}
        assert content.digest == folder_digest(content.files)

    def test_a_moved_alias_resolves_to_something_else(self, server: str) -> None:
        body = {"name": "digits", "alias": "moving", "version": "1"}
        put_json(f"{server}/api/2.0/mlflow/registered-models/alias", body)
        moved = {**body, "version": "2"}
        check_resolve(
            "models:/digits@moving", self.context(server),
            lambda: put_json(f"{server}/api/2.0/mlflow/registered-models/alias", moved),
        )  # fmt: skip

    def test_refusals(self, server: str, tmp_path: Path) -> None:
        for uri in ("models:/digits@nobody", "models:/digits/9", "models:/none/1"):
            failure = refused(uri, self.context(server), tmp_path)
            assert (failure.reason, uri in failure.message) == (Reason.SOURCE_NOT_FOUND, True)
        failure = refused("models:/digits/1", Context(quick_web()), tmp_path)
        assert (failure.reason, "connection.endpoint" in failure.message) == (Reason.INVALID_SPEC, True)
        failure = refused("models:/digits/1", self.context(server), tmp_path, most=3)
        assert failure.reason is Reason.TOO_LARGE

    def test_versions_in_a_store_of_their_own(self, tmp_path: Path) -> None:
        """What such a server answers, by hand. The store is asked with the same Secret, not at the server's URL."""
        with web_server() as web, web_server() as store:
            secret = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "p"}
            secret["STORAGE_EMULATOR_HOST"] = f"http://{store.host}"
            context = Context(quick_web(), secret, connection=Connection(f"http://{web.host}"))
            answer_version(web, "gs://bucket/models/7")
            fields = quote("items(name,size,generation,md5Hash,contentEncoding),nextPageToken", safe="")
            item = {"name": "models/7/model.onnx", "size": "5", "generation": "1"}
            one = quote("name,size,generation,md5Hash,contentEncoding", safe="")
            store.serve(
                f"/storage/v1/b/bucket/o?prefix=models%2F7%2F&fields={fields}", json.dumps({"items": [item]}).encode()
            )
            store.serve(
                f"/storage/v1/b/bucket/o/models%2F7%2Fmodel.onnx?fields={one}&generation=1", json.dumps(item).encode()
            )
            store.serve("/storage/v1/b/bucket/o/models%2F7%2Fmodel.onnx?alt=media&generation=1", b"model")
            assert files_of(fetched("models:/m/7", context, tmp_path)) == {"model.onnx": b"model"}
            assert {headers["Authorization"] for _, _, headers in web.seen} == {"Basic bWU6cA=="}
            assert not any("Authorization" in headers for _, _, headers in store.seen)
            for uri in ("file:///mlruns/1", "mlflow-artifacts://elsewhere:5000/x", "", "dbfs:/x"):
                answer_version(web, uri)
                failure = refused("models:/m/7", context, tmp_path / "x")
                assert failure.reason in (Reason.SOURCE_UNAVAILABLE, Reason.SOURCE_DENIED)

    def test_an_artifact_that_is_cut_short(self, tmp_path: Path) -> None:
        with web_server() as web:
            answer_version(web, "mlflow-artifacts:/7")
            listing = {"files": [{"path": "model.onnx", "is_dir": False, "file_size": "9"}]}
            web.serve("/api/2.0/mlflow-artifacts/artifacts?path=7", json.dumps(listing).encode())
            web.serve("/api/2.0/mlflow-artifacts/artifacts/7/model.onnx", b"model")
            failure = refused("models:/m/7", self.context(f"http://{web.host}"), tmp_path)
            assert failure.reason is Reason.SOURCE_TRUNCATED

    def test_folders_without_end(self, tmp_path: Path) -> None:
        with web_server() as web:
            answer_version(web, "mlflow-artifacts:/7")
            listing = json.dumps({"files": [{"path": "x", "is_dir": True}]}).encode()
            for depth in range(64):
                path = quote("/".join(["7", *["x"] * depth]), safe="")
                web.serve(f"/api/2.0/mlflow-artifacts/artifacts?path={path}", listing)
            assert refused("models:/m/7", self.context(f"http://{web.host}"), tmp_path).reason is Reason.TOO_LARGE


class TestHub:
    """A stand-in for the hub, which has no server to install: it answers the three calls as the hub documents them."""

    COMMIT = "a" * 40

    def serve(self, web: WebServer, files: dict[str, bytes], large: tuple[str, ...] = (), lie: str = "") -> Context:
        web.serve("/api/models/team/digits/revision/main", json.dumps({"sha": self.COMMIT}).encode())
        entries: list[dict[str, Any]] = [{"type": "directory", "path": "onnx", "oid": "0" * 40, "size": 0}]
        for path, data in files.items():
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git}
            if path in large:
                entry |= {"oid": "1" * 40, "lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}}
            entries.append(entry)
            web.serve(f"/team/digits/resolve/{self.COMMIT}/{quote(path)}", b"x" * len(data) if path == lie else data)
        tree = f"/api/models/team/digits/tree/{self.COMMIT}?recursive=true"
        first, rest = entries[:2], entries[2:]
        web.serve(f"{tree}&cursor=2", json.dumps(rest).encode())

        def paged(request: Any) -> None:
            data = json.dumps(first).encode()
            request.send_response(200)
            request.send_header("Link", f'<http://{web.host}{tree}&cursor=2>; rel="next"')
            request.send_header("Content-Length", str(len(data)))
            request.end_headers()
            request.wfile.write(data)

        web.paths[tree] = paged
        return Context(quick_web(), {"HF_TOKEN": "t"}, connection=Connection(f"http://{web.host}"))

    @pytest.fixture
    def web(self) -> Iterator[WebServer]:
        with web_server() as server:
            yield server

    def test_a_repository_by_its_safe_files(self, web: WebServer, tmp_path: Path) -> None:
        files = {
            "config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"pickle",
            ".gitattributes": b"*",
            "onnx/model é.onnx": b"\x08\x08model", "tf_model.h5": b"h5",
        }  # fmt: skip
        context = self.serve(web, files, large=("model.safetensors", "onnx/model é.onnx"))
        content = fetched("hf://team/digits", context, tmp_path)
        assert set(files_of(content)) == {"config.json", "onnx/model é.onnx"}
        assert open_source("hf://team/digits@main", context).resolve() == f"commit {self.COMMIT}"
        assert {headers["Authorization"] for _, _, headers in web.seen} == {"Bearer t"}
        alone = fetched("hf://team/digits@main/model.safetensors", context, tmp_path / "file")
        assert files_of(alone) == {"model.safetensors": b"weights"}

    def test_a_file_brings_its_external_data(self, web: WebServer, tmp_path: Path) -> None:
        context = self.serve(web, {"onnx/m.onnx": b"m", "onnx/m.onnx_data": b"d", "onnx/q.onnx": b"q"})
        content = fetched("hf://team/digits@main/onnx/m.onnx", context, tmp_path)
        assert files_of(content) == {"m.onnx": b"m", "m.onnx_data": b"d"}

    def test_pickles_alone_need_trust(self, web: WebServer, tmp_path: Path) -> None:
        context = self.serve(web, {"pytorch_model.bin": b"pickle", "config.json": b"{}"})
        failure = refused("hf://team/digits@main", context, tmp_path)
        assert (failure.reason, "pytorch_model.bin" in failure.message) == (Reason.CODE_NOT_TRUSTED, True)
        trusting = Context(context.web, context.secret, connection=context.connection, trust="Code")
        assert "pytorch_model.bin" in files_of(fetched("hf://team/digits@main", trusting, tmp_path / "x"))

    @pytest.mark.parametrize("large", [("model.onnx",), ()])
    def test_other_bytes_than_the_commits(self, web: WebServer, tmp_path: Path, large: tuple[str, ...]) -> None:
        context = self.serve(web, {"model.onnx": b"model"}, large, lie="model.onnx")
        assert refused("hf://team/digits", context, tmp_path).reason is Reason.DIGEST_MISMATCH

    def test_refusals(self, web: WebServer, tmp_path: Path) -> None:
        context = self.serve(web, {"model.onnx": b"model"})
        for uri in ("hf://team/none", "hf://team/digits@gone", "hf://team/digits@main/none.onnx"):
            assert refused(uri, context, tmp_path).reason is Reason.SOURCE_NOT_FOUND


class TestDvc:
    def context(self, s3: str, claim: Path) -> Context:
        secret = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_ENDPOINT_URL": s3}
        return Context(quick_web(), secret, claim=claim, dvc_remote="s3://dvc/store")

    @pytest.fixture(scope="class")
    @classmethod
    def s3(cls) -> Iterator[str]:
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        client = s3_client({"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_ENDPOINT_URL": url})
        client.create_bucket(Bucket="dvc")
        listing = json.dumps([{"md5": md5(b"m"), "relpath": "1/model.onnx"}, {"md5": md5(b"c"), "relpath": "config"}])
        for layout in ("store/files/md5/", "store/"):
            for data, suffix in ((b"m", ""), (b"c", ""), (listing.encode(), ".dir")):
                key = md5(data)
                client.put_object(Bucket="dvc", Key=f"{layout}{key[:2]}/{key[2:]}{suffix}", Body=data)
        client.put_object(Bucket="dvc", Key=f"store/files/md5/{'9' * 2}/{'9' * 30}", Body=b"other")
        cls.folder_md5 = f"{md5(listing.encode())}.dir"
        yield url
        server.stop()

    folder_md5 = ""

    @pytest.mark.parametrize("modern", ["  hash: md5\n", ""])
    def test_a_file_and_a_folder(self, s3: str, tmp_path: Path, modern: str) -> None:
        (tmp_path / "m.onnx.dvc").write_text(f"outs:\n- md5: {md5(b'm')}\n  size: 1\n{modern}  path: m.onnx\n")
        (tmp_path / "repo.dvc").write_text(f"outs:\n- md5: {self.folder_md5}\n{modern}  path: out/repo\n")
        context = self.context(s3, tmp_path)
        content = fetched("pvc://git/m.onnx.dvc", context, tmp_path / "file")
        assert (files_of(content), content.digest) == ({"m.onnx": b"m"}, f"sha256:{hashlib.sha256(b'm').hexdigest()}")
        folder = fetched("pvc://git/repo.dvc", context, tmp_path / "folder")
        assert files_of(folder) == {"1/model.onnx": b"m", "config": b"c"}

    def test_resolve_is_the_pointers(self, s3: str, tmp_path: Path) -> None:
        pointer = tmp_path / "m.dvc"
        pointer.write_text(f"outs:\n- {{md5: {md5(b'm')}, hash: md5, path: m}}\n")
        change = f"outs:\n- {{md5: {md5(b'c')}, hash: md5, path: m}}\n"
        check_resolve("pvc://git/m.dvc", self.context(s3, tmp_path), lambda: pointer.write_text(change))

    def test_other_bytes_than_the_pointers(self, s3: str, tmp_path: Path) -> None:
        (tmp_path / "m.dvc").write_text(f"outs:\n- {{md5: {'9' * 32}, hash: md5, path: m}}\n")
        failure = refused("pvc://git/m.dvc", self.context(s3, tmp_path), tmp_path / "x")
        assert (failure.reason, "9" * 32 in failure.message) == (Reason.DIGEST_MISMATCH, True)

    @pytest.mark.parametrize(
        "text", ["outs: []", "- x", "outs: [{md5: ../../etc, path: m}]", "outs: [{etag: x, path: m}]", ": :"]
    )
    def test_pointers_that_are_none(self, s3: str, tmp_path: Path, text: str) -> None:
        (tmp_path / "m.dvc").write_text(text)
        assert refused("pvc://git/m.dvc", self.context(s3, tmp_path), tmp_path / "x").reason is Reason.UNKNOWN_FORMAT

    def test_a_remote_that_cannot_be(self, s3: str, tmp_path: Path) -> None:
        (tmp_path / "m.dvc").write_text("outs: []")
        context = Context(quick_web(), claim=tmp_path, dvc_remote="hf://team/digits")
        assert refused("pvc://git/m.dvc", context, tmp_path / "x").reason is Reason.INVALID_SPEC


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def unpad(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def token_endpoint(web: WebServer, path: str, token: str = "issued") -> list[dict[str, list[str]]]:
    """Answers forms with a token, and keeps the forms."""
    asked: list[dict[str, list[str]]] = []

    def answer(request: Any) -> None:
        asked.append(parse_qs(request.rfile.read(int(request.headers["Content-Length"])).decode()))
        data = json.dumps({"access_token": token, "expires_in": 3600}).encode()
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    web.paths[path] = answer
    return asked


def entra_token() -> str:
    """A token with the claims that Azurite looks at; it knows nobody's keys."""
    now = int(time.time())
    claims = {
        "aud": "https://storage.azure.com", "iss": "https://sts.windows.net/ab1f708d-50f6-404c-a006-d71b2ac7a606/",
        "iat": now - 60, "nbf": now - 60, "exp": now + 3600,
    }  # fmt: skip
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "RS256", "typ": "JWT"}, claims)
    ]
    return ".".join([*parts, "c2ln"])


def put_json(url: str, body: dict[str, str]) -> Any:
    headers = {"Content-Type": "application/json"}
    return json.loads(sent(Web(pauses=(0.2,)), "POST", url, json.dumps(body).encode(), headers) or b"null")


def put_google(url: str, name: str, data: bytes) -> None:
    sent(quick_web(), "POST", f"{url}/upload/storage/v1/b/models/o?uploadType=media&name={quote(name, safe='')}", data)


def put_azure(endpoint: str, name: str, data: bytes, query: str = "", context: Any = None) -> None:
    url = f"{endpoint}/models{f'/{quote(name)}' if name else ''}{query}"
    kind = {} if not name else {"x-ms-blob-type": "BlockBlob"}
    headers = {"Content-Length": str(len(data)), "Content-Type": "application/octet-stream", **kind}
    signed = {**headers, "Content-Length": str(len(data)) if data else ""}
    web = quick_web() if context is None else context
    sent(web, "PUT", url, data, {**headers, **_shared_key("devstoreaccount1", CONTAINER_KEY)("PUT", url, signed)})


def sent(web: Web, method: str, url: str, data: bytes, headers: dict[str, str] | None = None) -> bytes:
    with web.send(method, url, {"Content-Length": str(len(data)), **(headers or {})}, lambda: [data]) as answer:
        text = answer.text()
        assert answer.status in (200, 201), (answer.status, text)
        return text


def answer_version(web: WebServer, artifacts: str) -> None:
    web.serve(
        "/api/2.0/mlflow/model-versions/get?name=m&version=7", b'{"model_version": {"name": "m", "version": "7"}}'
    )
    place = "/api/2.0/mlflow/model-versions/get-download-uri?name=m&version=7"
    web.serve(place, json.dumps({"artifact_uri": artifacts}).encode())


def register(url: str, folder: Path) -> None:
    """Three versions and an alias, by the calls that MLflow's own client makes."""
    run = put_json(f"{url}/api/2.0/mlflow/runs/create", {"experiment_id": "0"})["run"]["info"]
    words = {"experiment_id": "0", "name": "model"}
    logged = put_json(f"{url}/api/2.0/mlflow/logged-models", words)["model"]["info"]
    for base in (f"{run['artifact_uri']}/model", logged["artifact_uri"]):
        for path in folder.rglob("*.onnx"):
            name = f"{base.removeprefix('mlflow-artifacts:/')}/{path.relative_to(folder).as_posix()}"
            sent(quick_web(), "PUT", f"{url}/api/2.0/mlflow-artifacts/artifacts/{quote(name)}", path.read_bytes())
        mlmodel = f"{url}/api/2.0/mlflow-artifacts/artifacts/{base.removeprefix('mlflow-artifacts:/')}/MLmodel"
        sent(quick_web(), "PUT", mlmodel, (folder / "MLmodel").read_bytes())
    put_json(f"{url}/api/2.0/mlflow/registered-models/create", {"name": "digits"})
    sources = [
        {"source": f"runs:/{run['run_id']}/model", "run_id": run["run_id"]},
        {"source": f"{run['artifact_uri']}/model", "run_id": run["run_id"]},
        {"source": f"models:/{logged['model_id']}", "model_id": logged["model_id"]},
    ]
    for source in sources:
        put_json(f"{url}/api/2.0/mlflow/model-versions/create", {"name": "digits", **source})
    put_json(f"{url}/api/2.0/mlflow/registered-models/alias", {"name": "digits", "alias": "champion", "version": "2"})
