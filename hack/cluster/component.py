"""What one long-running program of the cluster is.

Listening addresses are loopback, or the bridge where pods or the API server must reach a program;
nothing is offered to the machine's network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Component:
    """A long-running program: how to start it, and where it says that it is healthy."""

    name: str
    command: tuple[str, ...]
    health: str = ""
    endpoint: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
