"""What the chart tells the operator and decisions depend on."""

from dataclasses import dataclass

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
    router_image: str = ""
    """Of router fleets that name none themselves."""
    namespace: str = "penstock-system"
    """Where the operator runs: router pods answer about their counters to it alone."""
