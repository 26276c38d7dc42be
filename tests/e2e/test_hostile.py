"""Models made to do harm: each is told with a reason within its limit, and nobody beside it notices."""

import os

import pytest

from .cluster import SYSTEM
from .deployments import Deployed, condition
from .hostile import HOSTILE
from .modelpath import Rows, watched
from .models import linear_model

pytest.importorskip("torch", reason="make venv-models")

FULL = bool(os.environ.get("PENSTOCK_FULL"))
FEW = ("a command in a .pt2", "hangs when it answers", "memory without end")
NEIGHBOUR = linear_model(61)
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def neighbour(cluster, namespace, store) -> Deployed:
    """What serves beside them on the same node."""
    deployed = Deployed(cluster, namespace, "neighbour")
    deployed.apply(store.push(NEIGHBOUR, "neighbour"))
    deployed.wait_ready()
    deployed.wait_answers_as(NEIGHBOUR)
    return deployed


@pytest.mark.parametrize("name", HOSTILE if FULL else FEW)
def test_it_is_told_in_time_and_nobody_else_notices(name, deploy, neighbour, store):
    case = HOSTILE[name]
    tag = f"hostile-{list(HOSTILE).index(name)}"
    before = watched(neighbour, SYSTEM)
    store.push_files(case.files(), tag)

    with Rows().row("hostile", "case", name) as row:
        guest = deploy(tag)
        guest.apply(store.uri(tag), dict(case.model), prepare={"timeout": case.timeout})
        found = guest.wait_refused(*case.reasons, seconds=case.seconds)

        told = condition(found, "Ready")
        row.update(reason=told["reason"], message=told["message"])
        after = watched(neighbour, SYSTEM)
        row["neighbours_untouched"] = after == before
        assert case.words in told["message"], told
        assert len(told["message"]) > 20, told
        assert "stable" not in found["status"]
        assert after == before
