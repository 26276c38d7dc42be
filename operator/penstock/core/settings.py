"""What the chart tells the operator and decisions depend on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Images and the artifact store; every revision pins what it was made with."""

    jobs_image: str
    triton_image: str
    registry: str = "registry.penstock-system:5000"
    """host[:port] of the artifact store; each namespace has the repository of its own name there."""
    plain_http: tuple[str, ...] = ("registry.penstock-system:5000",)
    image_pull_secrets: tuple[str, ...] = ()
    max_model_bytes: int = 10 * 2**30
    revision_history: int = 5
    convert_image: str = ""
    """Opens what has to be converted with torch or the tabular libraries; empty: this installation has none."""
    tensorflow_image: str = ""
    """Opens SavedModels; empty: this installation has none."""
    server_images: Mapping[str, str] = field(default_factory=dict)
    """Images of the backends that `triton_image` does not have, by backend."""
    router_image: str = ""
    """Of router fleets that name none themselves."""
    node_cache: str = ""
    """host:port that leads to the cache of a pod's own node; empty: this installation has none."""
    namespace: str = "penstock-system"
    """Where the operator runs: router pods answer about their counters to it alone."""

    def image_with(self, backend: str) -> str:
        """The server image that has a backend: its own one, else the default, which may have many."""
        return self.server_images.get(backend) or self.triton_image
