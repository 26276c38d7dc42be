"""Reports: what is read, how it is shown, and that nothing in it can do anything to whoever looks."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from click import ClickException
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from penstock.api.report import REPORT_TYPE, Histogram, Report, read_report
from penstock.cli import report as report_command
from penstock.cli import report_store
from penstock.cli.report_markup import tag
from penstock.cli.report_page import page
from penstock.cli.report_plots import Mark, histogram_plot
from penstock.cli.report_store import Store, _service_of, fetch_report
from penstock.cli.report_text import picture
from penstock.cli.report_words import bytes_text, headline, milliseconds, number, plain
from penstock.kube.errors import NotFound

NASTY = '</title><script>alert(1)</script>"\x1b]0;owned\x07<img src=x onerror=alert(1)>'
HISTOGRAM = {"edges": [1, 2, 4, 8], "counts": [10, 5, 1]}
WHOLE: dict[str, Any] = {
    "schema": "penstock.dev/report/v1",
    "source": {"uri": "s3://models/digits/7", "digest": "sha256:" + "a" * 64, "format": "TorchExport", "size_bytes": 9},
    "conversion": {
        "format": "ONNX", "tools": {"torch": "2.13.0"}, "warnings": ["mind the dropout"], "seconds": 1.9,
        "speed": {"speedup": 2.5, "onnx": {"milliseconds": 0.2}, "source": {"milliseconds": 0.5}},
    },
    "optimization": {
        "asked": {"precision": "Auto", "min_speedup": 1.2},
        "isa": "AVX2",
        "baseline": {"size_bytes": 650_000, "milliseconds": 0.027, "runs": 9},
        "candidates": [
            {"name": "static", "precision": "INT8", "size_bytes": 183_000, "milliseconds": 0.017, "speedup": 1.6,
             "kept": True},
            {"name": "half", "precision": "FP16", "why": "needs a GPU"},
        ],
    },
    "gates": [
        {
            "name": "accuracy", "asked": "Top1 at least 0.97", "measured": "0.9963", "passed": True, "value": 0.9963,
            "bound": 0.97, "better": "Higher", "interval": [0.9865, 0.999], "baseline": 0.998, "rows": 540,
        },
        {
            "name": "latency.p99", "asked": "at most 5 ms", "measured": "7.9 ms", "passed": False, "value": 7.9,
            "reason": "LatencyFailed", "sentence": "raise instances.count", "bound": 5, "unit": "ms",
        },
    ],
    "parity": {"rows": 540, "top1_agreement": 1, "max_absolute": 2e-4, "differences": {
        "edges": [1e-7, 1e-6, 1e-5, 1e-4, 1e-3], "counts": [3, 400, 130, 7]}},
    "serving": {
        "latency": {
            "concurrency": 8, "requests": 16, "p50_ms": 1.7, "p95_ms": 4, "p99_ms": 7.9, "histogram": HISTOGRAM,
        },
        "throughput": [{"batch_size": 1, "concurrency": 8, "rows_per_second": 1890.4}],
        "memory": {"peak_bytes": 200 << 20, "limit_bytes": 320 << 20},
        "goal": "Latency",
        "trials": [{"settings": {"instances": 2, "threads": 1}, "value": 5.2, "chosen": True}],
    },
    "machine": {"cpu": "EPYC", "flags": ["avx2"], "cores": 2},
    "tools": {"onnxruntime": "1.27.0"},
}  # fmt: skip


def whole(**changes: Any) -> Report:
    return read_report(json.dumps({**WHOLE, **changes}))


def poisoned(value: Any, key: str = "") -> Any:
    """The same report with the poison in every text that is not a word of the schema."""
    if isinstance(value, dict):
        return {name: poisoned(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, key) for item in value]
    return NASTY if isinstance(value, str) and key not in ("schema", "better", "goal") else value


class Reader(HTMLParser):
    """Elements and attributes as a browser would find them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read_page(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def shown(report: Report) -> str:
    console = Console(width=160, record=True, highlight=False, file=StringIO())
    console.print(picture(report, "digits", "revision digits-1"))
    return console.export_text()


# reading


def test_a_report_may_say_little() -> None:
    report = read_report('{"schema": "penstock.dev/report/v1", "of a later version": 1}')
    assert report.passed
    assert headline(report) == "Prepared; no gate was asked for"
    short = read_report('{"schema": "penstock.dev/report/v1", "optimization": {"asked": "INT8"}}')
    assert short.optimization is not None
    assert short.optimization.asked.precision == "INT8"
    read_page(page(report, "digits", ""))
    assert "Prepared" in shown(report)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "the text"),
        ('{"schema": "penstock.dev/report/v2"}', "schema"),
        ('{"schema": "penstock.dev/report/v1", "gates": [{"name": "size"}]}', "gates.0.passed"),
        ('{"schema": "penstock.dev/report/v1", "machine": {"cores": 1e999}}', "machine.cores"),
        (json.dumps({**WHOLE, "parity": {"rows": 1, "differences": {"edges": [1, 2], "counts": [1, 2]}}}), "3 edges"),
        (json.dumps({**WHOLE, "parity": {"rows": 1, "differences": {"edges": [2, 1], "counts": [1]}}}), "ascend"),
        (json.dumps({**WHOLE, "source": {"uri": "x" * 5000}}), "source.uri"),
        ("x" * (5 << 20), "at most"),
    ],
)
def test_what_is_no_report_is_said_with_its_place(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        read_report(text)


# showing


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    reader = read_page(page(whole(), "digits", "revision digits-1"))
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & set(reader.tags)
    loading = [
        item for item in reader.attributes if item[1] in ("src", "href", "srcset", "style") or item[1][:2] == "on"
    ]
    assert loading == []
    policy = next(value for _, name, value in reader.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'")


def test_the_page_shows_every_number_and_plot() -> None:
    text = page(whole(), "digits", "revision digits-1")
    for words in (
        "Refused: latency.p99 did not pass", "raise instances.count", "0.9963", "1.60x", "179 KiB", "needs a GPU",
        "1,890/s", "200 MiB of 320 MiB (62 %)", "instances 2, threads 1", "TorchExport", "mind the dropout",
        "2.50x as fast as its own framework (500 µs and 200 µs a row)", "1.00x",
        "asked: p99 5 ms", "p95 4 ms", "asked: at least 0.97", "source: 0.998", "100.00 %", "onnxruntime",
    ):  # fmt: skip
        assert words in text, words
    assert read_page(text).tags.count("svg") == 5


def test_texts_of_the_model_stay_texts() -> None:
    poison = read_report(json.dumps(poisoned(WHOLE)))
    text = page(poison, NASTY, NASTY)
    assert not {"\x1b", "\x07"} & set(text)
    reader = read_page(text)
    assert not {"script", "img"} & set(reader.tags)
    assert sorted(set(reader.tags)) == sorted(set(read_page(page(whole(), "digits", "x")).tags))
    assert not {"\x1b", "\x07"} & set(shown(poison))


@given(st.text(), st.text())
def test_no_text_breaks_out_of_an_element(inner: str, value: str) -> None:
    reader = read_page(tag("p", inner, title=value))
    assert reader.tags == ["p"]


def test_the_terminal_shows_every_number() -> None:
    text = shown(whole())
    for words in (
        "latency.p99",
        "FAILED",
        "raise instances.count",
        "1.60x",
        "needs a GPU",
        "p99 7.9 ms",
        "1,890 rows/s",
        "instances 2, threads 1",
    ):
        assert words in text, words


def test_rates_and_memory_stand_close_together_on_the_terminal() -> None:
    lines = shown(whole()).splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("latency  "))
    assert [line.split()[0] for line in lines[at : at + 3]] == ["latency", "rate", "memory"]


def test_the_defaults_of_a_search_are_called_so() -> None:
    trials = [{"settings": {"defaults": True}, "value": 9}, {"settings": {"instances": 2}, "value": 5, "chosen": True}]
    report = whole(serving={"goal": "Latency", "trials": trials})
    for text in (shown(report), page(report, "digits", "")):
        assert "the defaults" in text
        assert "defaults True" not in text


def test_what_is_not_known_of_the_source_has_no_line() -> None:
    text = page(whole(), "digits", "")
    assert "<dt>digest</dt>" in text
    assert "resolved to" not in text
    assert "<code></code>" not in text


def test_a_latency_is_drawn_once_with_its_histogram() -> None:
    """Beside the accuracy its interval, milliseconds wide, would be a dot on an axis of seconds."""
    latency = {"name": "latency.p95", "passed": True, "value": 4.1, "bound": 2000, "interval": [3.9, 4.3], "unit": "ms"}
    text = page(whole(gates=[latency]), "digits", "")
    assert "Latency in the server" in text
    assert "confidence interval" not in text


@given(
    st.lists(st.floats(1e-9, 1e9), min_size=2, max_size=40, unique=True).map(sorted),
    st.floats(1e-9, 1e9),
    st.data(),
)
def test_any_histogram_can_be_drawn(edges: list[float], mark: float, data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(0, 10**9), min_size=len(edges) - 1, max_size=len(edges) - 1))
    drawn = histogram_plot(Histogram(edges=tuple(edges), counts=tuple(counts)), "ms", [Mark(mark, "x")], "t")
    for _, name, value in read_page(drawn).attributes:
        if name in ("x", "x1", "x2"):
            assert 0 <= float(value) <= 641


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (number(0), "0"), (number(12345.678), "12,346"), (number(0.99630001), "0.9963"), (number(1e-5), "1e-5"),
        (number(2.5e8), "250,000,000"), (number(2.5e13), "2.5e13"), (number(-3.14159), "-3.142"),
        (bytes_text(0), "0 bytes"), (bytes_text(2048), "2.0 KiB"),
        (bytes_text(183_000), "179 KiB"), (bytes_text(3 << 40), "3.0 TiB"), (milliseconds(0.017), "17 µs"),
        (milliseconds(12.34), "12.3 ms"), (milliseconds(1500), "1.5 s"), (plain("a\n\tb\x00c"), "a b�c"),
        (plain("x" * 20, 5), "xxxx…"),
    ],
)  # fmt: skip
def test_words_of_numbers(found: str, expected: str) -> None:
    assert found == expected


# getting


@pytest.mark.parametrize(
    ("host", "service"),
    [
        ("registry.penstock-system:5000", ("registry", "penstock-system", 5000)),
        ("registry.penstock-system.svc.cluster.local:5000", ("registry", "penstock-system", 5000)),
        ("registry.example.org", None),
        ("localhost:5000", None),
    ],
)
def test_which_stores_are_inside_the_cluster(host: str, service: Any) -> None:
    assert _service_of(host) == service


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


BLOB = json.dumps(WHOLE).encode()
MANIFEST = json.dumps({"layers": [{"mediaType": REPORT_TYPE, "digest": digest_of(BLOB), "size": len(BLOB)}]}).encode()


class Cluster:
    """An API server as far as a report needs one: some objects, and a WebSocket to a registry's pod."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {
            "/api/v1/namespaces/vision/secrets/penstock-registry-pull": {
                "data": {"token": base64.b64encode(b"the-token").decode()}
            },
            "/api/v1/namespaces/penstock-system/services/registry": {
                "spec": {"selector": {"app": "registry"}, "ports": [{"port": 5000, "targetPort": "http"}]}
            },
            "/api/v1/namespaces/penstock-system/pods": {
                "items": [
                    {
                        "metadata": {"name": "registry-0"},
                        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 5001}]}]},
                        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
                    }
                ]
            },
        }
        self.blobs = {
            f"/v2/vision/manifests/{digest_of(MANIFEST)}": MANIFEST,
            f"/v2/vision/blobs/{digest_of(BLOB)}": BLOB,
        }
        self.asked: list[str] = []

    async def request(self, target: Any, _method: str, path: str, **_: Any) -> Any:
        if path not in self.objects:
            raise NotFound("not found", verb="get", kind=target.kind, namespace=target.namespace, name=target.name)
        return self.objects[path]

    async def forward(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        assert request.path == "/api/v1/namespaces/penstock-system/pods/registry-0/portforward"
        assert request.query["ports"] == "5001"
        for channel in (b"\x00", b"\x01"):
            await socket.send_bytes(channel + (5001).to_bytes(2, "little"))
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                head = message.data[1:].decode()
                assert "Authorization: Bearer the-token" in head
                path = head.split()[1]
                self.asked.append(path)
                body = self.blobs.get(path, b"{}")
                status = "200 OK" if path in self.blobs else "404 Not Found"
                answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
                for start in range(0, len(answer), 700):
                    await socket.send_bytes(b"\x00" + answer[start : start + 700])
        return socket


class Connected:
    """A connection to it."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.ssl_context = False

    async def authorization(self) -> str | None:
        return "Bearer of the API server"


async def store_of(cluster: Cluster, aiohttp_server: list[web.AppRunner]) -> Store:
    application = web.Application()
    application.router.add_get("/{rest:.*}", cluster.forward)
    runner = web.AppRunner(application)
    await runner.setup()
    aiohttp_server.append(runner)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    connection: Any = Connected(f"http://127.0.0.1:{port}")
    transport: Any = cluster
    return Store(connection, transport, "registry.penstock-system:5000", "vision", "vision")


async def fetched(cluster: Cluster) -> tuple[Report, bytes]:
    runners: list[web.AppRunner] = []
    try:
        return await fetch_report(await store_of(cluster, runners), digest_of(MANIFEST))
    finally:
        for runner in runners:
            await runner.cleanup()


async def test_a_report_comes_through_the_api_server() -> None:
    cluster = Cluster()
    assert await fetched(cluster) == (whole(), BLOB)
    assert cluster.asked == list(cluster.blobs)


def spoil_secret(cluster: Cluster) -> None:
    del cluster.objects["/api/v1/namespaces/vision/secrets/penstock-registry-pull"]


def spoil_pod(cluster: Cluster) -> None:
    cluster.objects["/api/v1/namespaces/penstock-system/pods"]["items"] = []


def spoil_service(cluster: Cluster) -> None:
    del cluster.objects["/api/v1/namespaces/penstock-system/services/registry"]


def spoil_bytes(cluster: Cluster) -> None:
    cluster.blobs[f"/v2/vision/blobs/{digest_of(BLOB)}"] = BLOB + b" "


def spoil_manifest(cluster: Cluster) -> None:
    cluster.blobs.clear()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_secret, "nothing was ever prepared there"),
        (spoil_pod, "has no ready pod"),
        (spoil_service, "no way to Service registry"),
        (spoil_bytes, "sent bytes with"),
        (spoil_manifest, "no longer holds"),
    ],
)
async def test_what_is_in_the_way_is_named(spoil: Any, words: str) -> None:
    cluster = Cluster()
    spoil(cluster)
    with pytest.raises(ClickException, match=words):
        await fetched(cluster)


# the command


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(*_: Any) -> tuple[tuple[Report, bytes], str]:
        return (whole(), BLOB), "revision digits-1"

    monkeypatch.setattr(report_command, "_read", read)


@pytest.mark.parametrize(("output", "words"), [("text", "FAILED"), ("json", '"schema"'), ("html", "<!doctype html>")])
def test_every_output_goes_to_the_terminal_or_a_file(reading: None, tmp_path: Path, output: str, words: str) -> None:
    runner = CliRunner()
    done = runner.invoke(report_command.report, ["digits", "-o", output])
    assert (done.exit_code, words in done.output) == (0, True), done.output
    path = tmp_path / "report"
    assert runner.invoke(report_command.report, ["digits", "-o", output, "-f", str(path)]).exit_code == 0
    assert words in path.read_text()
    if output == "json":
        assert json.loads(path.read_text()) == WHOLE


FACTS = {"report": "sha256:" + "b" * 64, "artifact": {"repository": "registry.penstock-system:5000/vision"}}


def test_which_report_is_meant() -> None:
    records = {"digits-1": {"facts": FACTS, "model": {"uri": "s3://a"}}, "digits-0": {"facts": {}}}
    live = {
        "spec": {"model": {"uri": "s3://b"}},
        "status": {"preparation": {"key": "k", "report": "sha256:" + "c" * 64}},
    }
    found = report_command._of_preparation(live, records)
    assert (found.digest[:8], found.repository) == ("sha256:c", "registry.penstock-system:5000/vision")
    found = report_command._of_revision(records, "digits-1", "digits")
    assert (found.digest[:8], found.about) == ("sha256:b", "revision digits-1, s3://a")
    with pytest.raises(ClickException, match="without a report"):
        report_command._of_revision(records, "digits-0", "digits")
    with pytest.raises(ClickException, match="digits-0, digits-1"):
        report_command._of_revision(records, "digits-2", "digits")
    with pytest.raises(ClickException, match="no report: fetching"):
        report_command._of_preparation({"status": {"preparation": {"message": "fetching"}}}, {})


def test_an_answer_in_pieces_is_whole_only_at_its_end() -> None:
    answer = bytearray(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab")
    assert not report_store._is_whole(answer)
    answer += b"c"
    assert report_store._is_whole(answer)
    assert report_store._parse(bytes(answer), "h") == (200, b"abc")
    with pytest.raises(ClickException, match="no whole answer"):
        report_store._parse(b"", "h")
