"""What becomes of a key whose pass did not end well."""

from contextlib import contextmanager
from typing import Any

import pytest

from penstock.controller.workers import Key, Workers
from penstock.kube.errors import ApiError, Fenced, Forbidden, Unavailable
from penstock.kube.queue import KeyedQueue
from penstock.telemetry import Outcome

KEY = ("vision", "digits")


@contextmanager
def measured(kind: str, key: Key) -> Any:
    yield Outcome()


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (Unavailable("no answer"), True),
        (Fenced("the lease is not held"), True),
        (ValueError("a bug"), True),
        (Forbidden("cannot be created because it is being terminated"), False),
        (None, False),
    ],
)
async def test_a_key_is_taken_up_again_unless_its_namespace_goes(error: ApiError | None, again: bool) -> None:
    """A fence that closes may open again: a renewal of the lease that was on its way succeeds late."""
    queue: KeyedQueue[Key] = KeyedQueue()

    async def reconcile(key: Key) -> None:
        if error:
            raise error

    await Workers("ModelDeployment", queue, reconcile, measured)._pass(KEY)
    assert queue.delayed == int(again)
