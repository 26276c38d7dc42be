"""The child of `inspect`: reads one request from standard input, opens the model, answers on standard output.

What every model of its image needs is imported before it asks for the request, and limits bind it before the first byte
of a model. It may write below its own folders alone, and makes no other process.
"""

import errno
import json
import os
import sys
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn

from penstock.api.reasons import Reason

from . import onnxmodel  # noqa: F401 - what most models need, imported while they are on their way
from .failure import Failure, full_disk, is_out_of_memory, shorten
from .finding import Asked
from .landlock import allow_writes_below
from .making import Order
from .seccomp import deny_processes
from .stages import prepare_model
from .supervise import OUT_OF_MEMORY, Limits, apply_limits

__all__ = ["main"]

_DEVICES = Path("/dev")


def main() -> NoReturn:
    """Serve one request and end; the exit code is read only when there is no answer."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    writable = os.environ["PENSTOCK_WRITABLE"].split(os.pathsep)
    allow_writes_below([*map(Path, writable), _DEVICES])
    preloading = Thread(target=_preload, daemon=True)
    preloading.start()
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    asked = json.loads(line)
    deny_processes()
    apply_limits(Limits.read(asked))

    def say(data: dict[str, Any]) -> None:
        print(json.dumps(data), file=answers, flush=True)

    try:
        request = Asked.read(asked["request"])
        order = Order.read(asked)
        say(prepare_model(order, request, lambda stage: say({"stage": stage}), preloading.join))
    except Failure as failure:
        say({"error": {"reason": failure.reason, "message": failure.message}})
    except Exception as error:  # noqa: BLE001 - whatever a library raises about a file becomes an answer
        if is_out_of_memory(error):
            os._exit(OUT_OF_MEMORY)
        say({"error": _explain(error, asked)})
    finally:
        answers.close()
    os._exit(0)  # an import that nobody needed after all is not waited for


def _preload() -> None:
    """Import what takes seconds in the images of other formats, beside the download and the look at the files."""
    opener = json.loads(os.environ["PENSTOCK_REQUEST"]).get("opener", "Basic")
    if opener != "Basic":
        from .convert import preload  # noqa: PLC0415 - the image of opener Basic has none of it

        preload()


def _explain(error: Exception, asked: dict[str, Any]) -> dict[str, str]:
    full = full_disk(error)
    if full == errno.EFBIG:
        message = (
            f"a file that was being written has grown over {asked['file_bytes']} bytes, from a source of "
            f"{asked['bytes']}; use a smaller model or raise the chart's operator.maxModelSize"
        )
        return {"reason": Reason.TOO_LARGE, "message": message}
    if full is not None:
        message = f"the work volume is full: {shorten(str(error), 300)}; free disk on the node, or use a smaller model"
        return {"reason": Reason.NOT_ENOUGH_DISK, "message": message}
    message = shorten(f"the model cannot be inspected: {type(error).__name__}: {error}")
    return {"reason": Reason.INVALID_MODEL, "message": message}


if __name__ == "__main__":
    main()
