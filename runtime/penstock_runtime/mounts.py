"""What the kubelet mounts and says: credentials, keys, tokens, and where the containers of a preparation meet."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.api.reasons import Reason

from .failure import Failure

__all__ = ["Places", "read_secret", "termination_log"]


@dataclass(frozen=True)
class Places:
    """Paths of the pod; tests have their own."""

    work: Path = Path("/work")
    keep: Path = Path("/keep")
    credentials: Path = Path("/etc/penstock/credentials")
    dataset_credentials: Path = Path("/etc/penstock/dataset-credentials")
    calibration_credentials: Path = Path("/etc/penstock/calibration-credentials")
    ca: Path = Path("/etc/penstock/ca")
    signature: Path = Path("/etc/penstock/signature")
    token: Path = Path("/etc/penstock/registry/token")
    claim: Path = Path("/source")
    dataset_claim: Path = Path("/dataset-source")
    calibration_claim: Path = Path("/calibration-source")
    config: Path = Path("/etc/penstock/config/config.pbtxt")
    models: Path = Path("/models")
    content: Path = Path("/content")
    termination: Path = Path("/dev/termination-log")

    @classmethod
    def below(cls, root: Path) -> "Places":
        """The same paths below another root."""
        return cls(**{name: root / str(path).lstrip("/") for name, path in vars(cls()).items()})

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> "Places":
        """The pod's own paths, or those below PENSTOCK_ROOT, by which tests run the programs."""
        root = environment.get("PENSTOCK_ROOT")
        return cls.below(Path(root)) if root else cls()


def read_secret(folder: Path, name: str, field: str) -> dict[str, str]:
    """The keys of a mounted Secret; raises Failure where it does not exist, since its mount is optional."""
    keys = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith("..") and path.is_file():
            keys[path.name] = path.read_bytes().decode(errors="replace").strip()
    if not keys:
        message = f"Secret {name}, named by {field}, does not exist in this namespace or is empty; create it"
        raise Failure(Reason.SECRET_MISSING, message)
    return keys


def termination_log(places: Places, text: str) -> None:
    """Leave the program's last words where the kubelet picks them up."""
    places.termination.parent.mkdir(parents=True, exist_ok=True)
    places.termination.write_text(text)
