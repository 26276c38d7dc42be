"""A web server in the cluster, to fetch models from: honest files, an S3 bucket, and downloads that go wrong."""

import base64
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from examples.demo.cluster import Cluster

from .cluster import apply, wait_for

PROGRAM = '''
import http.server, pathlib, time

FILES = pathlib.Path("/files")
ZEROS = bytes(1 << 20)
EMPTY = b"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>"
MISSING = b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"


class Handler(http.server.BaseHTTPRequestHandler):
    """/name: a file; /bucket/name: the same with credentials; /huge /endless /short: downloads that go wrong."""

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path.startswith("/bucket") and "e2e-key" not in self.headers.get("Authorization", ""):
            return self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        if "list-type" in query:
            return self.answer(200, EMPTY)
        if path in ("/huge", "/bucket/huge"):
            return self.pour(2 << 30, 2 << 30)
        if path == "/endless":
            return self.pour(None, 2 << 30)
        if path == "/short":
            return self.pour(4 << 20, 1 << 20)
        file = FILES / path.rpartition("/")[2]
        if not file.is_file():
            return self.answer(404, MISSING)
        self.answer(200, file.read_bytes())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.wfile.write(body)

    def pour(self, announced, size):
        self.send_response(200)
        if announced:
            self.send_header("Content-Length", str(announced))
        self.send_header("ETag", '"1"')
        self.end_headers()
        self.close_connection = True
        try:
            for _ in range(size >> 20):
                self.wfile.write(ZEROS)
        except OSError:
            pass


http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
'''


@contextmanager
def file_server(cluster: Cluster, namespace: str, image: str) -> Iterator[str]:
    """host:port inside the cluster, once it answers."""
    apply(cluster, *_objects(namespace, image))
    wait_for(cluster, "pods", namespace, "files", _is_ready, 60)
    yield f"files.{namespace}:8080"


def offer_files(cluster: Cluster, namespace: str, files: Mapping[str, bytes]) -> None:
    """Put files there; the kubelet is made to look at once by a change of the pod."""
    data = {name: base64.b64encode(content).decode() for name, content in files.items()}
    metadata = {"name": "files", "namespace": namespace}
    apply(cluster, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "binaryData": data})
    touch = ("annotate", "pod", "files", "-n", namespace, "--overwrite", f"e2e/files={time.time_ns()}")
    cluster.call(cluster.kubectl, *touch)
    deadline = time.monotonic() + 60
    look = ("exec", "files", "-n", namespace, "--", "ls", "/files")
    while not set(files) <= set(cluster.call(cluster.kubectl, *look).split()):
        assert time.monotonic() < deadline, "the kubelet has not brought the files"
        time.sleep(0.3)


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _objects(namespace: str, image: str) -> list[dict[str, Any]]:
    labels = {"app": "files"}
    metadata = {"namespace": namespace, "labels": labels}
    container = {
        "name": "files",
        "image": image,
        "command": ["python3", "-c", PROGRAM],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "files", "mountPath": "/files", "readOnly": True}],
    }
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "files", "configMap": {"name": "files"}}],
    }
    ports = [{"port": 8080}]
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "files", **metadata}, "binaryData": {}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "files", **metadata}, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "files", **metadata},
            "spec": {"selector": labels, "ports": ports},
        },
    ]
