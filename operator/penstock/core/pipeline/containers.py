"""The containers of a preparation: one with the network and the secrets, all others with neither.

The one that opens the model has no Secret, no token and, after its imports, no sockets, so a model that runs code when
it is loaded finds nothing to take and nowhere to send it (architecture.md, law 10). The server that is measured, what
measures it, and images of the user's own see only the folders that they work on.
"""

from collections.abc import Mapping

from penstock.api.base import wire
from penstock.api.preparation import REQUEST_VARIABLE, PreparationRequest
from penstock.api.spec import Resources
from penstock.api.termination import REPORT_LIMIT, REPORT_VARIABLE, report_limit
from penstock.api.units import duration_seconds
from penstock.core.security import container_security
from penstock.core.settings import Settings
from penstock.core.sizes import fill_resources, mebibytes

from .room import work_room
from .task import Task, preparation_request, serving_resources
from .volumes import Json, mount, source_environment, source_mounts, temporary

__all__ = ["UNTRUSTED", "containers", "opener_image", "resolve_container"]

MODE = "PENSTOCK_MODE"
UNTRUSTED = ("hook", "inspect", "server", "measure", "metric", "metric-source")
"""Everything that must never get an identity; `fetch` and `transfer` may."""
_TRANSFER = {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"cpu": "1", "memory": "384Mi"}}
_MEASURE = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
_LIGHT = ({"cpu": "50m", "memory": "256Mi"}, {"cpu": "1", "memory": "2Gi"})
_HEAVY = ({"cpu": "50m", "memory": "512Mi"}, {"cpu": "2", "memory": "4Gi"})
_LOOKING_SECONDS = 600
_MARGIN_SECONDS = 30
"""Left of spec.prepare.timeout to say that it was not enough."""


def opener_image(task: Task, settings: Settings) -> str:
    """The image that opens the model; empty where the installation has none."""
    images = {"Basic": settings.jobs_image, "Convert": settings.convert_image, "TensorFlow": settings.tensorflow_image}
    return images[task.opener]


def containers(task: Task, settings: Settings) -> dict[str, list[Json]]:
    """`containers` and, where there are any, `initContainers` of the pod.

    Side by side they meet through markers. Images of the user's own can wait for none: with one of those everything
    runs one after the other, as init containers do, and only the last, which publishes, is a plain one.
    """
    return _with_share(_containers(task, settings))


def _with_share(found: dict[str, list[Json]]) -> dict[str, list[Json]]:
    """The same, each of ours told how much it may report: a kubelet cuts off what is more than its share of the pod."""
    every = [container for group in found.values() for container in group]
    share = report_limit(len(every))
    if share < REPORT_LIMIT:
        for container in every:
            if any(variable["name"] == REQUEST_VARIABLE for variable in container.get("env", ())):
                container["env"].append({"name": REPORT_VARIABLE, "value": str(share)})
    return found


def _containers(task: Task, settings: Settings) -> dict[str, list[Json]]:
    request = preparation_request(task, settings)
    if task.is_sequential:
        first = _transfer(task, request, settings, "fetch", "fetch")
        last = _transfer(task, request, settings, "transfer", "publish")
        return {"initContainers": [first, *_in_between(task, request, settings)], "containers": [last]}
    together = [_transfer(task, request, settings), _inspect(task, request, settings)]
    if not task.is_measured:
        return {"containers": together}
    return {"initContainers": [_server(task)], "containers": [*together, _measure(task, request, settings)]}


def _in_between(task: Task, request: PreparationRequest, settings: Settings) -> list[Json]:
    hook = task.optimize.hook if task.optimize else None
    accuracy = task.gates.accuracy if task.gates else None
    found = []
    if hook:
        mounts = [
            _source_of_hook(task),
            mount("work", "/work/calibration", below="calibration"),
            mount("work", "/work/hook", below="hook", writable=True),
        ]
        found.append(_of_the_user("hook", hook.image, hook.command, task.prepare.resources, mounts))
    found.append(_inspect(task, request, settings, "sequential"))
    if task.is_measured:
        found += [_server(task), _measure(task, request, settings, "sequential")]
    if accuracy and accuracy.image:
        names = ["metric", *(["metric-source"] if accuracy.max_drop_percent is not None else [])]
        for name in names:
            mounts = [mount("work", "/work/metric", below=name, writable=True)]
            found.append(_of_the_user(name, accuracy.image, accuracy.command, task.prepare.resources, mounts))
    return found


def _source_of_hook(task: Task) -> Json:
    if not task.is_mounted:
        return mount("work", "/work/source", below="source")
    path = task.model.uri.removeprefix("pvc://").partition("/")[2]
    return mount("source", "/work/source", below=path.strip("/") or None)


def _transfer(
    task: Task, request: PreparationRequest, settings: Settings, name: str = "transfer", mode: str | None = None
) -> Json:
    mounts = [
        mount("work", "/work", writable=True),
        temporary("tmp"),
        mount("registry", "/etc/penstock/registry"),
        *source_mounts(task),
    ]
    if task.is_sequential:
        mounts.append(mount("keep", "/keep", writable=True))
    environment = _environment(request, source_environment(task), mode)
    return _ours(name, "transfer", settings.jobs_image, environment, _TRANSFER, mounts)


def resolve_container(task: Task, settings: Settings) -> Json:
    """Asks the source what the URI means, and nothing else."""
    return _transfer(task, preparation_request(task, settings), settings, mode="resolve")


def _inspect(task: Task, request: PreparationRequest, settings: Settings, mode: str | None = None) -> Json:
    timeout = int(duration_seconds(task.prepare.timeout)) - _MARGIN_SECONDS
    seconds = timeout if task.is_heavy else min(timeout, _LOOKING_SECONDS)
    environment = _environment(request, {"PENSTOCK_INSPECT_SECONDS": str(max(_MARGIN_SECONDS, seconds))}, mode)
    mounts = [mount("work", "/work", writable=True), temporary("inspect-tmp"), *_claim(task)]
    resources = _opening(task, settings)
    return _ours("inspect", "inspect", opener_image(task, settings), environment, resources, mounts)


def _opening(task: Task, settings: Settings) -> dict[str, dict[str, str]]:
    requests, limits = _HEAVY if task.is_heavy else _LIGHT
    room = {"ephemeral-storage": mebibytes(work_room(task, settings).request)}
    return fill_resources(task.prepare.resources, {**requests, **room}, limits)


def _claim(task: Task) -> list[Json]:
    """Content that is not copied, for those that look at it."""
    return [mount("source", "/source")] if task.is_mounted else []


def _measure(task: Task, request: PreparationRequest, settings: Settings, mode: str | None = None) -> Json:
    mounts = [mount("work", "/work", writable=True), temporary("measure-tmp"), *_claim(task)]
    return _ours("measure", "measure", settings.jobs_image, _environment(request, {}, mode), _MEASURE, mounts)


def _server(task: Task) -> Json:
    """A native sidecar: it is up before anything asks it to serve, and goes when the last container has ended."""
    container: Json = {
        "name": "server",
        "image": task.server_image,
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",
        "command": ["penstock-prove"],
        "resources": serving_resources(task),
        "securityContext": container_security(),
        "volumeMounts": [
            mount("work", "/work/proof", below="proof", writable=True),
            temporary("server-tmp"),
            mount("shm", "/dev/shm", writable=True),  # noqa: S108 - a mount of the container's own
            *_claim(task),
        ],
    }
    if task.env:
        container["env"] = [wire(variable) for variable in task.env]
    return container


def _of_the_user(
    name: str, image: str, command: tuple[str, ...] | None, asked: Resources | None, mounts: list[Json]
) -> Json:
    """An image that is not ours: no variable, no Secret, no token; what it logs last is what its failure says."""
    container: Json = {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": fill_resources(asked, *_HEAVY),
        "securityContext": container_security(),
        "volumeMounts": [*mounts, temporary("user-tmp")],
    }
    if command:
        container["command"] = list(command)
    return container


def _ours(
    name: str,
    program: str,
    image: str,
    environment: list[dict[str, str]],
    resources: Mapping[str, Mapping[str, str]],
    mounts: list[Json],
) -> Json:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", f"penstock_runtime.{program}"],
        "env": environment,
        "resources": resources,
        "securityContext": container_security(),
        "volumeMounts": mounts,
    }


def _environment(request: PreparationRequest, extra: Mapping[str, str], mode: str | None) -> list[dict[str, str]]:
    text = request.model_dump_json(by_alias=True, exclude_none=True)
    said = {REQUEST_VARIABLE: text, **extra, **({MODE: mode} if mode else {})}
    return [{"name": name, "value": value} for name, value in said.items()]
