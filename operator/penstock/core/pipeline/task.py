"""Task: everything that one preparation Job depends on, gathered by those who know it."""

from dataclasses import dataclass, field

from penstock.api.base import wire
from penstock.api.model import ConnectionSpec, ModelSpec, SecretName, SourceFormat
from penstock.api.openers import Opener
from penstock.api.preparation import PreparationRequest, needs_server
from penstock.api.proving import DataSpec, GatesSpec, OptimizeSpec
from penstock.api.resource import Metadata
from penstock.api.spec import EnvVar, PrepareSpec, ServerSpec
from penstock.core.settings import Settings
from penstock.core.sizes import server_resources

__all__ = ["Content", "Task", "preparation_request", "serving_resources"]

_SERVER_MEMORY = 2 * 2**30
"""Limit of the measured server where spec.server.resources says nothing: its model's size is not known yet."""


@dataclass(frozen=True)
class Content:
    """One thing that the Job fetches. `name` is what its folder, its volumes and its variables are called by."""

    name: str
    uri: str
    credentials: SecretName | None
    connection: ConnectionSpec | None

    @property
    def claim(self) -> str | None:
        """The PersistentVolumeClaim that it is on."""
        place = self.uri.removeprefix("pvc://")
        return place.partition("/")[0] if place != self.uri else None


@dataclass(frozen=True)
class Task:
    """One preparation: the Job is a pure function of this and of the settings."""

    owner: Metadata
    key: str
    model: ModelSpec
    prepare: PrepareSpec = field(default_factory=PrepareSpec)
    optimize: OptimizeSpec | None = None
    gates: GatesSpec | None = None
    server: ServerSpec | None = None
    env: tuple[EnvVar, ...] = ()
    """Of the server's container, as serving pods have it."""
    format: SourceFormat = "Auto"
    """As written, or as a first look has found it."""
    opener: Opener = "Basic"
    source_bytes: int | None = None
    """Where a first look has told."""
    server_image: str = ""

    @property
    def is_measured(self) -> bool:
        """Whether gates need the real server."""
        return needs_server(self.gates)

    @property
    def has_hook(self) -> bool:
        """Whether a training step of the user's own makes a candidate."""
        return self.optimize is not None and self.optimize.hook is not None

    @property
    def has_metric(self) -> bool:
        """Whether the accuracy is measured by an image of the user's own."""
        return self.gates is not None and self.gates.accuracy is not None and self.gates.accuracy.image is not None

    @property
    def is_sequential(self) -> bool:
        """Whether containers run one after the other: images that are not ours cannot wait for a marker."""
        return self.has_hook or self.has_metric

    @property
    def is_heavy(self) -> bool:
        """Whether more happens to the model than being looked at."""
        return self.opener != "Basic" or self.optimize is not None or self.gates is not None

    @property
    def is_mounted(self) -> bool:
        """Whether the content stays on its claim."""
        return self.model.delivery == "Mount"

    @property
    def contents(self) -> tuple[Content, ...]:
        """The model, the gates' dataset and the calibration data, as far as there are any."""
        model = Content("model", self.model.uri, self.model.credentials_secret_ref, self.model.connection)
        dataset = self.gates.dataset if self.gates else None
        calibration = self.optimize.calibration if self.optimize else None
        return (model, *_data("dataset", dataset), *_data("calibration", calibration))


def _data(name: str, spec: DataSpec | None) -> tuple[Content, ...]:
    return (Content(name, spec.uri, spec.credentials_secret_ref, spec.connection),) if spec else ()


def serving_resources(task: Task) -> dict[str, dict[str, str]]:
    """Of the server that is measured: as asked for serving pods, else 2 GiB, as no model has been looked at yet."""
    return server_resources(task.server, _SERVER_MEMORY)


def preparation_request(task: Task, settings: Settings) -> PreparationRequest:
    """What the Job is asked to do."""
    model = task.model
    return PreparationRequest(
        uri=model.uri,
        format=task.format,
        digest=model.digest,
        verify_signature=(model.signature.type or "Cosign") if model.signature else "",
        trust=model.trust or "Data",
        entrypoint=model.entrypoint,
        convert=model.convert or "Auto",
        delivery=model.delivery or "Copy",
        dvc_remote=model.dvc_remote,
        connection=model.connection,
        inputs=tuple(tensor.model_dump() for tensor in model.inputs or ()),
        outputs=tuple(tensor.model_dump() for tensor in model.outputs or ()),
        optimize=task.optimize,
        gates=task.gates,
        served_name=model.served_name or task.owner.name,
        server=_server(task) if task.is_measured else None,
        opener=task.opener,
        repository=f"{settings.registry}/{task.owner.namespace}",
        plain_http=settings.plain_http,
        max_bytes=settings.max_model_bytes,
        **({"resolve": True} if model.refresh and not model.digest else {}),
    )


def _server(task: Task) -> dict[str, object]:
    """`spec.server` as written, with the resources that its container has."""
    written = wire(task.server) if task.server else {}
    return {**written, "resources": serving_resources(task)}
