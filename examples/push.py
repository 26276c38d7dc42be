"""Push a model to the chart's registry: `python examples/push.py model.onnx models/NAME:TAG`.

Uses the current kubeconfig, which must be allowed to read the registry's signing key and to port-forward.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from examples.demo.artifacts import open_registry  # noqa: E402 - needs the path set above
from examples.demo.cluster import current_cluster  # noqa: E402
from examples.demo.screen import DemoError  # noqa: E402


def main() -> int:
    """Push what the command line names and print where it is."""
    if len(sys.argv) != 3 or ":" not in sys.argv[2]:
        print("usage: push.py model.onnx models/NAME:TAG", file=sys.stderr)
        return 2
    repository, _, tag = sys.argv[2].rpartition(":")
    try:
        with open_registry(current_cluster(), repository) as artifacts:
            digest = artifacts.push(Path(sys.argv[1]), tag)
    except (DemoError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{artifacts.uri(tag)} is {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
