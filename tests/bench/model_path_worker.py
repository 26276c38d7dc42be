"""One variant of a model in a process of its own, on one thread: `model_path_worker.py onnx|torch MODEL FEED`.

Reads how often to run it from standard input, one number a line, and answers with the seconds by the wall and of this
process's CPU time. MODEL is an ONNX file, or for torch the name of a network of tests.models.networks and the file of
its weights, as NAME=FILE.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from penstock_runtime.optimize.timing import repeat


def main() -> None:
    kind, model, feed = sys.argv[1:]
    arrays = dict(np.load(feed))
    window = repeat(_torch(model, arrays) if kind == "torch" else _onnx(model, arrays))
    print("ready", flush=True)
    for line in sys.stdin:
        print(*window(int(line)), flush=True)


def _onnx(model: str, arrays: dict[str, np.ndarray]) -> Callable[[], object]:
    from penstock_runtime.optimize.running import open_timed, runner  # noqa: PLC0415 - not beside torch

    return runner(open_timed(Path(model)), arrays)


def _torch(model: str, arrays: dict[str, np.ndarray]) -> Callable[[], object]:
    import torch  # noqa: PLC0415 - not beside onnxruntime
    from tests.models import networks  # noqa: PLC0415 - as above

    name, _, weights = model.partition("=")
    torch.set_num_threads(1)
    network = getattr(networks, name)()
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval()
    inputs = [torch.from_numpy(array) for array in arrays.values()]

    def run() -> object:
        with torch.inference_mode():
            return network(*inputs)

    return run


if __name__ == "__main__":
    main()
