"""Revisions that older releases made: their records are read, and their pods rendered without one difference.

`tests/golden/releases/<version>/<case>.json` holds a ModelDeployment, the revision record and the pod template of that
release. A file is written once, by `GOLDEN=release`, and never again: changing one would restart the pods of
everybody who runs that release.
"""

import json
import os
from pathlib import Path

import pytest

from penstock import __version__
from penstock.api.resource import ModelDeployment
from penstock.core.modelrepo import RULES, Rule
from penstock.core.rendering import revision_objects
from penstock.core.revision import RevisionRecord, revision_hash

from .test_rendering import CASES, rendered

RELEASES = Path(__file__).parent.parent / "golden" / "releases"


def write_release() -> None:
    """The present release's files; those that exist stay."""
    folder = RELEASES / __version__
    folder.mkdir(parents=True, exist_ok=True)
    for case, (deployment, _) in CASES.items():
        objects = {item["kind"]: item for item in rendered(case)}
        kept = {
            "deployment": deployment,
            "record": objects["ControllerRevision"],
            "template": objects["Deployment"]["spec"]["template"],
        }
        place = folder / f"{case}.json"
        if not place.exists():
            place.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


if os.environ.get("GOLDEN") == "release":
    write_release()
FILES = sorted(RELEASES.glob("*/*.json"))


def test_the_present_release_is_kept_for_the_next_ones():
    assert {path.stem for path in FILES if path.parent.name == __version__} == set(CASES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_pod_of_an_older_release_is_restarted(path):
    kept = json.loads(path.read_text())
    deployment = ModelDeployment.parse(kept["deployment"])
    record = RevisionRecord.from_manifest(kept["record"])
    objects = {item["kind"]: item for item in revision_objects(deployment, record, 1)}
    assert objects["Deployment"]["spec"]["template"] == kept["template"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_rule_that_a_later_release_adds_restarts_no_pod_either(path, monkeypatch):
    def refuse(_subject):
        yield "name", "nothing is good enough any more"

    strict = Rule("from-the-future", "refused", "Everything.", refuse)
    monkeypatch.setitem(RULES, strict.id, strict)
    test_no_pod_of_an_older_release_is_restarted(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_same_spec_still_names_the_same_revision(path):
    kept = json.loads(path.read_text())
    deployment = ModelDeployment.parse(kept["deployment"])
    record = RevisionRecord.from_manifest(kept["record"])
    assert record.name == f"{deployment.metadata.name}-{revision_hash(deployment, record.facts)}"
