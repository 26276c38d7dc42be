"""The child of `inspect`: reads one request from standard input, opens the model, answers on standard output.

What every model needs is imported before it asks for the request, and limits bind it before the first byte of one.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from penstock.api.reasons import Reason

from . import onnxmodel
from .failure import Failure, is_out_of_memory, shorten
from .finding import Asked, Finding, Progress, SourceTree
from .seccomp import deny_execution
from .supervise import OUT_OF_MEMORY, Limits, apply_limits

__all__ = ["inspect_source", "main"]


def main() -> int:
    """Serve one request; returns the exit code, which the parent reads only when there is no answer."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    line = sys.stdin.readline()
    if not line:
        return 0
    asked = json.loads(line)
    deny_execution()
    apply_limits(Limits(asked["memory"], asked["seconds"]))

    def say(data: dict[str, Any]) -> None:
        print(json.dumps(data), file=answers, flush=True)

    try:
        request = Asked.read(json.loads(asked["request"]))
        finding = inspect_source(Path(asked["root"]), request, lambda stage: say({"stage": stage}))
        say(finding.to_answer())
    except Failure as failure:
        say({"error": {"reason": failure.reason, "message": failure.message}})
    except Exception as error:  # noqa: BLE001 - whatever a library raises about a file becomes an answer
        if is_out_of_memory(error):
            os._exit(OUT_OF_MEMORY)
        message = shorten(f"the model cannot be inspected: {type(error).__name__}: {error}")
        say({"error": {"reason": Reason.INVALID_MODEL, "message": message}})
    return 0


def inspect_source(root: Path, asked: Asked, progress: Progress) -> Finding:
    """Find out what the files below `root` are, and what must be known to serve them; raises Failure."""
    tree = SourceTree.read(root)
    if asked.format == "TritonRepository" or (asked.format == "Auto" and tree.looks_like_repository()):
        from . import tritonrepository  # noqa: PLC0415 - the linter it brings is not waited for by everybody

        return tritonrepository.inspect_repository(tree, asked)
    return onnxmodel.inspect_onnx(tree, asked, progress)


if __name__ == "__main__":
    sys.exit(main())
