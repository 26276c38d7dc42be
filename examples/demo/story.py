"""What the demo does, in order.

Cluster, images, chart, models, predictions, a canary promoted and one taken back, and one model replacing the other.
"""

import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hack.cluster.settings import CHECKOUT

from .artifacts import Artifacts, open_registry
from .chart import image_values, install_chart, registry_images
from .cluster import Cluster, build_images, find_cluster
from .deployment import NAME, NAMESPACE, Serving, apply_deployment, prepare_namespace, wait_until_ready
from .faults import MODEL_SPEC, faulty_repository
from .predictions import DOORS, Answers, HeldOut, compare, predict, reference, v2_request
from .replacement import AT_ONCE, Model, replace_under_load, summary
from .report import complaint, predictions_table, replacements_table, write_report
from .rollout import FAULT, promote_and_take_back, rollout_summary, rollout_table
from .screen import DemoError, Screen
from .traffic import start_traffic

__all__ = ["main"]

_FOLDER = CHECKOUT / "build" / "demo"
_REPOSITORY = "models/digits"


def main() -> int:
    """Run it; anything off is one sentence and exit code 1."""
    screen, start = Screen(), time.monotonic()
    (_FOLDER / "report.json").unlink(missing_ok=True)
    try:
        cluster = find_cluster(screen)
        report = _tell(cluster, screen)
    except DemoError as error:
        screen.say(f"The demo has failed: {error}")
        return 1
    except KeyboardInterrupt:
        screen.say("Interrupted; what was started stays, another `make demo` goes on from there.")
        return 130
    seconds = round(time.monotonic() - start, 3)
    write_report(_FOLDER / "report.json", {**report, "stages_s": {**screen.stages_s, "total": seconds}})
    wrong = complaint(report)
    if wrong:
        screen.say(f"The demo has failed: {wrong}")
        return 1
    _farewell(cluster, screen, seconds)
    return 0


def _tell(cluster: Cluster, screen: Screen) -> dict[str, Any]:
    images = build_images(screen) if cluster.local else registry_images(_version())
    with screen.stage("chart", "Penstock, by its chart"):
        install_chart(cluster, image_values(images))
    with screen.stage("train", "two models of handwritten digits"):
        _train(screen)
    with screen.stage("push", "both models, and a faulty one, to the registry as OCI artifacts"):
        models, content = _push(cluster)
    held_out = HeldOut.read(_FOLDER / "models" / "held_out.npz")
    expected = {name: reference(model, held_out.images) for name, model in content.items()}
    with screen.stage("ready", "the linear model, from kubectl apply to Ready"):
        prepare_namespace(cluster, screen)
        apply_deployment(cluster, models["linear"].spec, "first", AT_ONCE)
        serving = wait_until_ready(cluster, screen, models["linear"].digest)
    found = {"linear": _predictions(cluster, screen, "linear", held_out, expected["linear"])}
    requests = _requests(held_out, expected)
    serving, rollout = _rollout(cluster, screen, models, serving, requests, images["jobs"])
    replacement = _replacement(cluster, screen, models, serving, requests, images["jobs"])
    found["mlp"] = _predictions(cluster, screen, "mlp", held_out, expected["mlp"])
    screen.show(predictions_table(found))
    return {**_headline(found["mlp"]), "rollout": rollout, "replacement": replacement, "models": found}


def _headline(best: Mapping[str, Any]) -> dict[str, Any]:
    """The model that serves in the end, as the report's own figures."""
    keys = ("accuracy", "reference_accuracy", "mismatches", "max_abs_difference", "http", "grpc")
    return {key: best[key] for key in keys}


def _version() -> str:
    version: str = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    return version


def _train(screen: Screen) -> None:
    command = [sys.executable, str(CHECKOUT / "examples" / "digits" / "train.py"), str(_FOLDER / "models")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    if done.returncode:
        raise DemoError(f"the training has failed: {done.stderr.strip().splitlines()[-1]}")
    for line in done.stdout.splitlines():
        screen.now(line)


def _push(cluster: Cluster) -> tuple[dict[str, Model], dict[str, bytes]]:
    """All models in the registry, and the bytes of the good ones as it gives them back by digest."""
    with open_registry(cluster, _REPOSITORY) as artifacts:
        models = {name: _push_one(artifacts, name) for name in ("linear", "mlp")}
        content = {name: artifacts.pull(model.digest) for name, model in models.items()}
        digest = artifacts.push_repository(faulty_repository(NAME, content["mlp"], FAULT), "faulty")
    return {**models, "faulty": Model(artifacts.uri("faulty"), digest, MODEL_SPEC)}, content


def _push_one(artifacts: Artifacts, name: str) -> Model:
    return Model(artifacts.uri(name), artifacts.push(_FOLDER / "models" / f"{name}.onnx", name))


def _predictions(cluster: Cluster, screen: Screen, name: str, held_out: HeldOut, expected: Answers) -> dict[str, Any]:
    """What the report says of one model: both doors compared with the reference, the worse of them told."""
    found: dict[str, Any] = {"images": len(held_out.labels)}
    with screen.stage(
        f"predict_{name}", f"{len(held_out.labels)} held-out images to the {name} model, over HTTP and gRPC"
    ):
        compared = []
        for door, (client, port) in DOORS.items():
            with cluster.reach(NAMESPACE, f"service/{NAME}", port) as address:
                answers, times = predict(client, address, NAME, held_out.images)
            compared.append(compare(answers, expected, held_out.labels))
            found[door] = asdict(times)
    return {
        "accuracy": min(one.accuracy for one in compared),
        "reference_accuracy": compared[0].reference_accuracy,
        "mismatches": sum(one.mismatches for one in compared),
        "max_abs_difference": max(one.max_abs_difference for one in compared),
        **found,
    }


def _requests(held_out: HeldOut, expected: Mapping[str, Answers]) -> list[dict[str, Any]]:
    """Every held-out image, and what the two models make of it: during a replacement either may answer."""
    labels = zip(*(answers.labels.tolist() for answers in expected.values()), strict=True)
    return [
        {"body": v2_request(image), "labels": sorted(set(both))}
        for image, both in zip(held_out.images, labels, strict=True)
    ]


def _rollout(
    cluster: Cluster,
    screen: Screen,
    models: Mapping[str, Model],
    serving: Serving,
    requests: list[dict[str, Any]],
    image: str,
) -> tuple[Serving, dict[str, Any]]:
    with screen.stage("rollout", "a good canary promoted, a faulty one taken back, under 100 requests a second"):
        path = f"/v2/models/{NAME}/infer"
        with start_traffic(cluster, NAMESPACE, NAME, path, requests, folder=_FOLDER, image=image) as load:
            serving, rows = promote_and_take_back(cluster, screen, models["mlp"], models["faulty"], serving, load)
            found = rollout_summary(rows, load.finish())
    screen.show(rollout_table(found))
    screen.say(f"{found['requests']} requests, {found['failed']} failed in v3's hands, {found['lost']} lost otherwise")
    return serving, found


def _replacement(
    cluster: Cluster,
    screen: Screen,
    models: Mapping[str, Model],
    serving: Serving,
    requests: list[dict[str, Any]],
    image: str,
) -> dict[str, Any]:
    with screen.stage("replacement", "each model replacing the other under 100 requests a second"):
        path = f"/v2/models/{NAME}/infer"
        with start_traffic(cluster, NAMESPACE, NAME, path, requests, folder=_FOLDER, image=image) as load:
            rows = replace_under_load(cluster, screen, models, serving, load)
            result = load.finish()
    screen.show(replacements_table(rows))
    waited = f"p50 {result['p50_ms']:.1f} ms, p99 {result['p99_ms']:.1f} ms"
    screen.say(f"{result['requests']} requests, {result['failed']} failed, {waited}")
    return summary(rows, result)


def _farewell(cluster: Cluster, screen: Screen, seconds: float) -> None:
    screen.say(f"The demo has passed in {seconds:.0f} s; build/demo/report.json has the figures.")
    if cluster.local:
        environment = Path(sys.executable)
        screen.say(f'Look around:  eval "$({_relative(environment)} hack/cluster env)"')
        screen.say(f"              kubectl get modeldeployments,pods -n {NAMESPACE}")
        screen.say("Stop it:      make cluster-down")
    else:
        screen.say(f"Look around:  kubectl get modeldeployments,pods -n {NAMESPACE}")
        screen.say(f"Remove it:    kubectl delete namespace {NAMESPACE}; helm uninstall penstock -n penstock-system")


def _relative(path: Path) -> Path:
    return path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path
