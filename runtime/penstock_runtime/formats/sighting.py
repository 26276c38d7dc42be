"""What one file was seen to be."""

from dataclasses import dataclass

__all__ = ["Sighting"]


@dataclass(frozen=True)
class Sighting:
    """A format of spec.model.format, or none with advice; `what` stands in sentences: "m.pkl is {what}"."""

    format: str | None
    what: str
    runs_code: bool = False
    """Loading it runs whatever code it holds."""
    advice: str = ""
    """What to do instead, where it cannot be opened."""
    damaged: bool = False
    """It announces a format and does not keep to it."""
