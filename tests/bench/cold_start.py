"""From creating a ModelDeployment to its first correct prediction, of content that nobody has seen before.

`make bench-cold-start` writes build/bench/cold-start.json: `runs[].stages_s`, `p50_s`. Images are on the node, the
model is in the registry; everything after that counts: preparation, publishing, recording, fetching, loading, routing.
"""

import argparse
import http.client
import json
import os
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

sys.path[0] = str(Path(__file__).resolve().parents[2])

from examples.demo.artifacts import Artifacts, open_registry  # noqa: E402
from examples.demo.chart import image_values, install_chart  # noqa: E402
from examples.demo.cluster import Cluster, build_images, find_cluster  # noqa: E402
from examples.demo.load import percentile  # noqa: E402
from examples.demo.predictions import HeldOut, reference, v2_request  # noqa: E402
from examples.demo.screen import DemoError, Screen  # noqa: E402
from hack.cluster.settings import CHECKOUT  # noqa: E402
from kubernetes.client import CoreV1Api, CustomObjectsApi  # noqa: E402 - after the path
from kubernetes.config import new_client_from_config  # noqa: E402
from tests.bench.sightings import Sightings  # noqa: E402

NAMESPACE = "penstock-bench"
KIND = {"group": "penstock.dev", "version": "v1alpha1", "namespace": NAMESPACE, "plural": "modeldeployments"}
BUDGET_S = 8.0
STAGES = {
    "job": "job",
    "prepare_start": "prepare_started",
    "prepare": "prepared",
    "record": "record",
    "deployment": "deployment",
    "fetch": "fetched",
    "load": "pod_ready",
}
"""Stage: the sight that ends it; each begins where the one before ended, the last goes on to the prediction."""
PATIENCE_S = 120.0


def main() -> int:
    """Run it; exit code 1 when the median is above the budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--output", type=Path, default=CHECKOUT / "build" / "bench" / "cold-start.json")
    options = parser.parse_args()
    screen = Screen()
    try:
        runs = measure(screen, options.runs)
    except (DemoError, TimeoutError) as error:
        screen.say(f"The benchmark has failed: {error}")
        return 1
    totals = [run["total_s"] for run in runs]
    found = {"p50_s": percentile(totals, 50), "max_s": max(totals), "budget_s": BUDGET_S, "runs": runs}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    screen.say(f"p50 {found['p50_s']:.2f} s (at most {BUDGET_S} asked), max {found['max_s']:.2f} s, {len(runs)} runs")
    return int(found["p50_s"] > BUDGET_S)


def measure(screen: Screen, count: int) -> list[dict[str, Any]]:
    """One dict per run."""
    cluster = find_cluster(screen)
    images = build_images(screen)
    with screen.stage("chart", "Penstock, by its chart"):
        install_chart(cluster, image_values(images))
    folder = CHECKOUT / "build" / "bench" / "models"
    with screen.stage("train", "a model to start from"):
        cluster.call(sys.executable, str(CHECKOUT / "examples" / "digits" / "train.py"), str(folder))
    image = HeldOut.read(folder / "held_out.npz").images[0]
    label = int(reference((folder / "mlp.onnx").read_bytes(), image[None]).labels[0])
    names = [f"cold-{uuid.uuid4().hex[:8]}" for _ in range(count)]
    with screen.stage("push", f"{count} models never seen before"), open_registry(cluster, "models/cold") as artifacts:
        uris = [push_unseen(artifacts, folder / "mlp.onnx", name) for name in names]
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    return run_all(cluster, screen, dict(zip(names, uris, strict=True)), json.dumps(v2_request(image)).encode(), label)


def push_unseen(artifacts: Artifacts, path: Path, name: str) -> str:
    """The same model under a name of its own inside, so that its bytes are new; return its URI."""
    model = onnx.load(str(path))
    model.metadata_props.add(key="run", value=name)
    unseen = path.with_name(f"{name}.onnx")
    unseen.write_bytes(model.SerializeToString())
    artifacts.push(unseen, name)
    unseen.unlink()
    return artifacts.uri(name)


def run_all(cluster: Cluster, screen: Screen, uris: Mapping[str, str], body: bytes, label: int) -> list[dict[str, Any]]:
    """One after the other; each is removed before the next begins."""
    sightings = Sightings(cluster.environment["KUBECONFIG"], NAMESPACE)
    client = new_client_from_config(cluster.environment["KUBECONFIG"])
    runs = []
    for number, (name, uri) in enumerate(uris.items(), 1):
        with screen.stage(f"run_{number}", f"run {number} of {len(uris)}, and its removal"):
            run = run_once(CustomObjectsApi(client), sightings, name, uri, body, label)
            stages = "  ".join(f"{stage} {seconds:.2f}" for stage, seconds in run["stages_s"].items())
            screen.now(f"{run['total_s']:.2f} s: {stages}")
            remove(CustomObjectsApi(client), CoreV1Api(client), name)
        runs.append(run)
    return runs


def run_once(
    objects: CustomObjectsApi, sightings: Sightings, name: str, uri: str, body: bytes, label: int
) -> dict[str, Any]:
    """Create, wait for the first correct answer, and say where the time went and how busy the machine was."""
    manifest = {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {"model": {"uri": uri}},
    }
    start = time.monotonic()
    objects.create_namespaced_custom_object(body=manifest, **KIND)
    deadline = start + PATIENCE_S
    end = first_prediction(sightings.address(name, deadline), name, body, label, deadline)
    stages, before = {}, start
    for stage, mark in STAGES.items():
        at = sightings.when(name, mark, deadline)
        stages[stage] = round(at - before, 3)
        before = at
    stages["predict"] = round(end - before, 3)
    return {"total_s": round(end - start, 3), "stages_s": stages, "load_average": round(os.getloadavg()[0], 2)}


def first_prediction(address: str, name: str, body: bytes, label: int, deadline: float) -> float:
    """Ask every 20 ms on a new connection; the time of the first right answer. A wrong one raises DemoError."""
    seen = "no answer"
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(address, 8000, timeout=2)
        try:
            connection.request("POST", f"/v2/models/{name}/infer", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            seen = f"status {answer.status}: {text[:200]!r}"
            if answer.status == 200:
                outputs = {output["name"]: output["data"] for output in json.loads(text)["outputs"]}
                if outputs["label"] == [label]:
                    return time.monotonic()
                raise DemoError(f"{name} answers label {outputs['label']}, onnxruntime says {label}.")
        except OSError as error:
            seen = str(error)
        finally:
            connection.close()
        time.sleep(0.02)
    raise TimeoutError(f"{name}: no prediction within {PATIENCE_S:.0f} s; the last answer was {seen}")


def remove(objects: CustomObjectsApi, core: CoreV1Api, name: str) -> None:
    """The ModelDeployment and its pods, which are not given their time to drain: nobody uses them."""
    objects.delete_namespaced_custom_object(name=name, **KIND)
    selector = {"label_selector": f"penstock.dev/deployment={name}"}
    for _ in range(100):
        core.delete_collection_namespaced_pod(NAMESPACE, grace_period_seconds=1, **selector)
        if not core.list_namespaced_pod(NAMESPACE, **selector).items:
            return
        time.sleep(0.3)


if __name__ == "__main__":
    sys.exit(main())
