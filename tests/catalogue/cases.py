"""The catalogue: repositories as files, what is wrong with each, and what a real tritonserver answered.

`bad/<id>/` and `valid/<id>/` are model repositories with a `case.json` beside the models; `answers.json` holds the
server's answers, recorded by the integration tests with `PENSTOCK_RECORD=1`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.core.modelrepo import Context, FileProblem, RepositoryFile, check_repository

CATALOGUE = Path(__file__).parent
ANSWERS = CATALOGUE / "answers.json"
SERVER = {"gpus": 0, "cache": False, "rate_limit": False, "server_version": "2.51"}
"""What is known of the server that answers: the one from PyPI, with our flags and no others."""


@dataclass(frozen=True)
class Case:
    """One repository. `rule` and `path` are the finding that must be among ours, None for a valid one.

    `dangerous`: it crashes or hangs a server, and is put to one of its own. `offline`: it is not put to one at all,
    as it needs hardware or flags that the test's server has not. `rendered`: the facts and the specification that
    its config came from.
    """

    id: str
    root: Path
    model: str
    about: str
    category: str = ""
    rule: str | None = None
    path: str | None = None
    dangerous: bool = False
    offline: bool = False
    context: dict[str, Any] = field(default_factory=dict)
    rendered: dict[str, Any] | None = None

    def check(self, *, strict: bool = False) -> tuple[FileProblem, ...]:
        """What our rules say."""
        known = SERVER | self.context
        known["backends"] = frozenset(known.get("backends", ()))
        return check_repository(read_repository(self.root), Context(strict=strict, **known))


def load_cases(kind: str) -> list[Case]:
    """All cases of `bad` or `valid`, by id."""
    roots = sorted(path for path in (CATALOGUE / kind).iterdir() if path.is_dir())
    return [Case(id=root.name, root=root, **json.loads((root / "case.json").read_text())) for root in roots]


def load_answers() -> dict[str, dict[str, Any]]:
    """The recorded answers by case id."""
    answers: dict[str, dict[str, Any]] = json.loads(ANSWERS.read_text())["answers"]
    return answers


def read_repository(root: Path) -> dict[str, RepositoryFile]:
    """A case's files as the linter takes them; keeper files of empty folders are what stands for the folders."""
    files = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_dir():
            files[f"{name}/"] = RepositoryFile(0)
        elif path.name != ".gitkeep":
            files[name] = RepositoryFile(path.stat().st_size, path.read_bytes())
    return files
