"""Nothing changes, nothing is done: the short form of `make bench-idle`."""

import os
from pathlib import Path

from tests.bench.idle import measure

DEPLOYMENTS = 10
SECONDS = float(os.environ.get("IDLE_SECONDS", "60"))
REST = 5.0


async def test_ready_deployments_cost_nothing_but_a_lease(tmp_path: Path) -> None:
    found = await measure(DEPLOYMENTS, SECONDS, REST, (), tmp_path)
    assert found["missed"] == [], found
    assert found["reconciles"] == 0, found
    leases = found["requests"].get("update leases", 0)
    assert abs(leases - SECONDS / 5) <= 3, found
