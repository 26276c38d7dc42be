"""kstatus, as Flux and Helm link it, on every state that api.md has a row for."""

from pathlib import Path

import pytest
import yaml

DATA = Path(__file__).parents[2] / "docs/gitops/argo-cd/testdata"
WANTED = {
    "unseen": "InProgress",
    "changed": "InProgress",
    "preparing": "InProgress",
    "progressing": "InProgress",
    "paused": "InProgress",
    "previewing": "InProgress",
    "holding": "InProgress",
    "rolled-back": "Failed",
    "aborted": "Failed",
    "failed": "Failed",
    "available": "Current",
}


@pytest.mark.parametrize("state", sorted(path.stem for path in DATA.glob("*.yaml")))
def test_state(kstatus, state):
    manifest = yaml.safe_load((DATA / f"{state}.yaml").read_text())
    if state == "new":
        manifest["status"] = {"observedGeneration": -1}  # what the CRD makes of a status that nobody has written
    assert kstatus(manifest) == WANTED.get(state, "InProgress")
