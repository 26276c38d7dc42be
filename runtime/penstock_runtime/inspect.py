"""`python -m penstock_runtime.inspect`: the container of a preparation that opens the model, with nothing to lose.

It has no secret and, from its first moment, no sockets; its child, which inherits that and gets limits of its own,
reads the files. The parent only waits, and turns whatever becomes of the child into an answer.
"""

import os
import sys
from collections.abc import Mapping

from penstock.api.reasons import Reason

from .failure import Failure, shorten
from .meeting import FAILED, FETCHED, INSPECTED, SOURCE, Meeting, PartnerDiedError
from .mounts import Places
from .seccomp import deny_sockets
from .supervise import Limits, Supervised, memory_limit

__all__ = ["main"]

_CHILD = "penstock_runtime.opener"
_REQUEST = "PENSTOCK_REQUEST"
_SECONDS = 600.0


def main() -> int:
    """Run the container; returns its exit code: 0 when it answered, or was told that there is nothing to do."""
    deny_sockets()
    places = Places.here()
    limits = _limits(os.environ)
    child = Supervised(_CHILD, limits)
    try:
        meeting = Meeting(places.work, "inspect", "transfer")
        if meeting.wait(FETCHED, FAILED) == FAILED:
            return 0
        meeting.write(INSPECTED, _answer(child, places))
    except PartnerDiedError as error:
        print(error, file=sys.stderr)
        return 0
    finally:
        child.end()
    return 0


def _limits(environment: Mapping[str, str]) -> Limits:
    """From the container's cgroup, and from variables by which tests make them small."""
    memory = environment.get("PENSTOCK_INSPECT_MEMORY")
    seconds = float(environment.get("PENSTOCK_INSPECT_SECONDS", _SECONDS))
    return Limits(int(memory) if memory else memory_limit(), seconds)


def _answer(child: Supervised, places: Places) -> dict[str, object]:
    try:
        return child.ask({"root": str(places.work / SOURCE), "request": os.environ[_REQUEST]})
    except Failure as failure:
        return {"error": {"reason": failure.reason, "message": failure.message}}
    except Exception as error:  # noqa: BLE001 - the other container waits for an answer, whatever it is
        message = shorten(f"the inspection failed: {type(error).__name__}: {error}")
        return {"error": {"reason": Reason.PREPARATION_FAILED, "message": message}}


if __name__ == "__main__":
    sys.exit(main())
