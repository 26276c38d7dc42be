"""What pretending API servers of the CLI's tests have in common: connections that end, and answers."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from click.testing import CliRunner, Result

from penstock.cli import main
from penstock.kube.connection import Connection, Response

__all__ = ["FakeConnection", "answered", "run_command"]


class FakeConnection:
    """In place of a connection; a test says what `send` answers."""

    generation = 0

    async def close(self) -> None:
        return None


def answered(code: int, body: Mapping[str, Any]) -> Response:
    return Response(code, {}, json.dumps(body).encode())


def run_command(monkeypatch: pytest.MonkeyPatch, answers: FakeConnection, *arguments: str) -> Result:
    """Run the command against it."""

    async def connect(_kubeconfig: str | None = None) -> FakeConnection:
        return answers

    monkeypatch.setattr(Connection, "open", connect)
    return CliRunner().invoke(main, arguments)
