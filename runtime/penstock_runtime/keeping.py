"""What the first container of a sequential preparation leaves to the last, where nobody between them can change it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from penstock.api.facts import MountRef
from penstock.api.reasons import Reason

from .content import Content, StoredFile
from .failure import Failure
from .gathering import Gathered

__all__ = ["read_kept", "write_kept"]

_NAME = "gathered.json"


def write_kept(folder: Path, gathered: Gathered) -> None:
    """Leave the digests of everything that was fetched."""
    content = gathered.content
    data = {
        "root": str(content.root),
        "digest": content.digest,
        "files": [asdict(file) for file in content.files],
        "mount": gathered.mount.model_dump(mode="json", by_alias=True) if gathered.mount else None,
        "dataset": gathered.dataset,
        "calibration": gathered.calibration,
        "resolved": gathered.resolved,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _NAME).write_text(json.dumps(data))


def read_kept(folder: Path) -> Gathered:
    """What `write_kept` left; raises Failure."""
    try:
        data: dict[str, Any] = json.loads((folder / _NAME).read_text())
    except (OSError, ValueError) as error:
        message = f"what was fetched is not recorded in {folder}: {error}; this is the operator's fault"
        raise Failure(Reason.PREPARATION_FAILED, message) from error
    files = tuple(StoredFile(**file) for file in data["files"])
    return Gathered(
        content=Content(Path(data["root"]), files, data["digest"]),
        mount=MountRef.model_validate(data["mount"]) if data["mount"] else None,
        dataset=data["dataset"],
        calibration=data["calibration"],
        resolved=data["resolved"],
    )
