"""Which image serves a model, and the sentence for an installation that has none."""

from penstock.api.facts import ModelFacts
from penstock.api.spec import ServerSpec

from .modelrepo import Problem, backend_for, backend_of
from .settings import Settings

__all__ = ["missing_backend", "missing_image", "server_image"]

_DEFAULT_IMAGE_VALUE = "images.triton"


def server_image(server: ServerSpec | None, facts: ModelFacts, settings: Settings) -> str:
    """The image of a revision that is made today; of a ready repository one that has a backend its models name."""
    backend = backend_of(facts)
    names = [backend.name] if backend else [model.backend for model in facts.models]
    special = next((name for name in names if settings.server_images.get(name)), "")
    return (server.image if server else None) or settings.image_with(special)


def missing_image(server: ServerSpec | None, facts: ModelFacts, settings: Settings) -> Problem | None:
    """Why this installation cannot serve these facts; None where it can, or where the user names an image himself.

    The models of a ready repository are the user's own business: its image may have any backend.
    """
    return missing_backend(server, facts.format, settings)


def missing_backend(server: ServerSpec | None, model_format: str, settings: Settings) -> Problem | None:
    """The same of a format alone."""
    backend = backend_for(model_format)
    if backend is None or (server and server.image) or backend.image_value == _DEFAULT_IMAGE_VALUE:
        return None
    if settings.server_images.get(backend.name):
        return None
    message = (
        f"{model_format} is served by Triton's {backend.name} backend, and this installation has no image with it: set "
        f"the chart's {backend.image_value}, or name an image here"
    )
    return Problem("spec.server.image", "backend-image", message)
