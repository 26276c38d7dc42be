"""`python -m penstock_runtime.inspect`: the container of a preparation that opens the model, with nothing to lose.

It has no secret and, from its first moment, no sockets; its child, which inherits that and gets limits of its own,
reads the files, converts them and runs them. The parent only waits, and turns whatever becomes of the child into an
answer.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penstock.api.reasons import Reason
from penstock.api.termination import pack, report_bytes

from .failure import Failure, shorten
from .machine import describe_machine, tool_versions, whole_cores
from .meeting import (
    ANSWERS,
    CALIBRATION,
    DATASET,
    FAILED,
    FETCHED,
    HOOK,
    INSPECTED,
    METRIC,
    METRIC_SOURCE,
    OPENED,
    PREPARED,
    Meeting,
    PartnerDiedError,
)
from .mounts import Places, termination_log
from .seccomp import deny_sockets
from .supervise import Limits, Supervised, Watched, memory_limit

__all__ = ["main"]

_CHILD = "penstock_runtime.opener"
_REQUEST = "PENSTOCK_REQUEST"
_SECONDS = 600.0
_SMALLEST_FILE = 256 << 20
_GROWTH = 4
"""How many times larger than its source one file may become: half precision made whole again, and some room."""
_FILES = 3
"""How many files of that size may lie there: a conversion, a candidate, and what a tool keeps meanwhile."""
_LONGEST_WORDS = 900
"""Characters of an error that ends the pod: what fits a termination message, whatever they are."""
_WRITABLE = (PREPARED, ANSWERS, METRIC, METRIC_SOURCE)


def main() -> int:
    """Run the container; returns its exit code: 0 when it answered, or was told that there is nothing to do."""
    deny_sockets()
    places = Places.here()
    request = json.loads(os.environ[_REQUEST])
    sequential = os.environ.get("PENSTOCK_MODE") == "sequential"
    places.work.mkdir(parents=True, exist_ok=True)
    meeting = Meeting(places.work, "inspect", "transfer")
    with _started(places, request) as child:
        meeting.write(OPENED, {"machine": describe_machine(), "tools": tool_versions()})
        try:
            if not sequential and meeting.wait(FETCHED, FAILED) == FAILED:
                return 0
            answer = _answer(child, places, meeting.read(FETCHED), request)
        except PartnerDiedError as error:
            print(error, file=sys.stderr)
            return 0
    if "error" in answer:  # nobody wants what was half made, and on a full disk there is no room for the answer else
        shutil.rmtree(places.work / PREPARED, ignore_errors=True)
    meeting.write(INSPECTED, answer)
    return _end_alone(places, answer) if sequential else 0


def _end_alone(places: Places, answer: Mapping[str, Any]) -> int:
    """In a pod whose containers run one after the other, what stops the next one is this one's failure."""
    said = {key: answer[key] for key in ("error", "needs") if key in answer}
    if not said or answer.get("gates"):
        return 0
    if "error" in said:
        said["error"]["message"] = shorten(said["error"]["message"], _LONGEST_WORDS)
    termination_log(places, pack(json.dumps(said), report_bytes(os.environ)))
    return 1


@contextmanager
def _started(places: Places, request: Mapping[str, Any]) -> Iterator[Supervised]:
    scratch = Path(tempfile.mkdtemp(prefix="opener-"))
    folders = tuple(places.work / name for name in _WRITABLE)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    writable = (*folders, scratch)
    environment = _environment(scratch, request) | {"PENSTOCK_WRITABLE": os.pathsep.join(map(str, writable))}
    child = Supervised(_CHILD, _limits(os.environ), environment, Watched(writable, _FILES * int(request["maxBytes"])))
    try:
        yield child
    finally:
        child.end()
        shutil.rmtree(scratch, ignore_errors=True)


def _environment(scratch: Path, request: Mapping[str, Any]) -> dict[str, str]:
    """What libraries read when they are imported: where they may write, how many threads to start, what to trust."""
    threads = "1" if request.get("opener", "Basic") == "Basic" else str(whole_cores())
    return {
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
        "KERAS_BACKEND": "torch",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONDONTWRITEBYTECODE": "1",
        **dict.fromkeys(_THREADS, threads),
        **dict.fromkeys(_FOLDERS, str(scratch)),
        **dict.fromkeys(_OFFLINE, "1"),
    }


_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_FOLDERS = (
    "HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "KERAS_HOME", "MPLCONFIGDIR", "TORCH_HOME",
    "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "HF_HOME", "NUMBA_CACHE_DIR", "JOBLIB_TEMP_FOLDER",
)  # fmt: skip
_OFFLINE = (
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "DO_NOT_TRACK",
    "HF_HUB_DISABLE_TELEMETRY",
    "MLFLOW_DISABLE_TELEMETRY",
)


def _limits(environment: Mapping[str, str]) -> Limits:
    """From the container's cgroup, and from variables by which the Job and tests set them."""
    memory = environment.get("PENSTOCK_INSPECT_MEMORY")
    seconds = float(environment.get("PENSTOCK_INSPECT_SECONDS", _SECONDS))
    return Limits(int(memory) if memory else memory_limit(), seconds)


def _answer(
    child: Supervised, places: Places, fetched: Mapping[str, Any], request: Mapping[str, Any]
) -> dict[str, Any]:
    largest = min(int(request["maxBytes"]), max(_SMALLEST_FILE, _GROWTH * int(fetched["bytes"])))
    asked = {
        "request": dict(request),
        "root": fetched["root"],
        "only": fetched.get("only"),
        "bytes": fetched["bytes"],
        "reused": fetched.get("reused"),
        **{name: str(places.work / name) for name in (PREPARED, ANSWERS, HOOK, METRIC, METRIC_SOURCE)},
        **{name: str(places.work / name) if fetched.get(name) else None for name in (DATASET, CALIBRATION)},
    }
    try:
        return child.ask(asked, file_bytes=largest)
    except Failure as failure:
        return {"error": {"reason": failure.reason, "message": failure.message}}
    except Exception as error:  # noqa: BLE001 - the other container waits for an answer, whatever it is
        message = shorten(f"the inspection failed: {type(error).__name__}: {error}")
        return {"error": {"reason": Reason.PREPARATION_FAILED, "message": message}}


if __name__ == "__main__":
    sys.exit(main())
