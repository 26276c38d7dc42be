"""Running other programs; the one place that does, so that failures read the same everywhere."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from hack.cluster.errors import ClusterError

_LINES = 15


def run(
    *command: str | Path,
    stdin: str | None = None,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    patience: float | None = None,
) -> str:
    """Return what ``command`` prints; raise `ClusterError` with its last words when it fails.

    ``environment`` is added to this process's own; ``patience`` is in seconds.
    """
    words = [str(word) for word in command]
    program = Path(words[0]).name
    try:
        result = subprocess.run(
            words,
            input=stdin,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            timeout=patience,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise ClusterError(f"The program `{program}` is not installed.") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"`{program}` did not end within {patience} s.") from error
    if result.returncode:
        said = (result.stdout + result.stderr).strip().splitlines()[-_LINES:]
        joined = " ".join(words[:4])
        raise ClusterError(f"`{joined}` failed: " + "\n".join(said or ["it said nothing."]))
    return result.stdout


def succeeds(*command: str | Path, patience: float | None = None) -> bool:
    """Run ``command`` where its failure is an ordinary outcome; say whether it succeeded."""
    try:
        run(*command, patience=patience)
    except ClusterError:
        return False
    return True
