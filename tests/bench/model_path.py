"""What `precision: Auto` makes of three networks, by the shipped code, and how much faster the result is.

The digits CNN is trained here and judged on the 540 held-out images; a ResNet-18 and a 6-layer encoder have random
weights, so their speed and size mean something and their answers do not. The code under test chooses by its own
measurement; the figures here come from a second one, in which the chosen model, its FP32 ONNX and torch eager run each
on one thread of a process of its own, interleaved in shuffled windows of which disturbed ones are discarded
(penstock_runtime.optimize.timing). Figures carry their number of windows and the share discarded; `clock` is `cpu`
where the machine was too busy for wall time, and then a quiet machine should be asked again.

INT8 depends on the processor: without VNNI, x86 multiplies bytes at most twice as fast as it does floats, so the
ResNet-18 bar can only be met with VNNI. `isa` says which it was. Exit code 1 when a bar is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.models import networks

from penstock_runtime.data import Dataset
from penstock_runtime.machine import describe_machine, tool_versions
from penstock_runtime.optimize import OptimizeAsked, Optimized, optimize
from penstock_runtime.optimize.isa import read_isa
from penstock_runtime.optimize.running import open_timed
from penstock_runtime.optimize.timing import Budget, Timing, Window, compare, measure

BARS = {
    ("digits_cnn", "accuracy_drop_points"): ("at most", 0.2),
    ("digits_cnn", "speedup_over_onnx"): ("at least", 1.5),
    ("digits_cnn", "speedup_over_torch"): ("at least", 3.0),
    ("digits_cnn", "size_ratio"): ("at least", 3.4),
    ("resnet18", "static_speedup"): ("at least", 2.8),
    ("resnet18", "size_ratio"): ("at least", 3.8),
    ("encoder", "dynamic_speedup"): ("at least", 1.8),
}
_WORKER = Path(__file__).with_name("model_path_worker.py")


def main() -> int:
    """Run, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/bench/model-path.json"))
    parser.add_argument("--seconds", type=float, default=20.0, help="for each variant")
    parser.add_argument("--only", nargs="*", choices=["digits_cnn", "resnet18", "encoder"])
    arguments = parser.parse_args()
    makers = {"digits_cnn": digits_cnn, "resnet18": resnet18, "encoder": encoder}
    found: dict[str, Any] = {}
    for name, make in makers.items():
        if not arguments.only or name in arguments.only:
            with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
                print(f"{name} ...", file=sys.stderr, flush=True)
                found[name] = make(Path(folder), arguments.seconds)
    missed = [sentence for key, bar in BARS.items() if (sentence := _missed(found, key, bar))]
    report = {
        "isa": read_isa().name,
        **found,
        "bars": {f"{name}.{figure}": " ".join(map(str, bar)) for (name, figure), bar in BARS.items()},
        "missed": missed,
        "machine": describe_machine(),
        "tools": {name: version for name, version in tool_versions().items() if name in ("onnxruntime", "torch")},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return 1 if missed else 0


def digits_cnn(folder: Path, seconds: float) -> dict[str, Any]:
    """The trained network: INT8 by calibration with 256 images of those it learned from."""
    digits = networks.digits_images()
    network = networks.digits_cnn()
    onnx = networks.export_onnx(network, digits.held_out_images[:2], folder / "model.onnx")
    calibration = Dataset({"image": digits.train_images[:256]}, None, 256)
    held_out = Dataset({"image": digits.held_out_images}, digits.held_out_labels, len(digits.held_out_labels))
    done = _optimized(onnx, folder, calibration, held_out, seconds)
    with torch.inference_mode():
        known = network(torch.from_numpy(digits.held_out_images)).numpy()
    answers = open_timed(done.model).run(None, {"image": digits.held_out_images})[0]
    right = [float(np.mean(a.argmax(1) == digits.held_out_labels)) for a in (known, answers)]
    torch.save(network.state_dict(), folder / "weights.pt")
    eager = f"DigitsCnn={folder / 'weights.pt'}"
    timings = _interleaved(folder, {"image": digits.held_out_images[:1]}, onnx, done.model, seconds, eager)
    return {
        "chosen": done.precision or "FP32",
        "accuracy_drop_points": round((right[0] - right[1]) * 100, 3),
        "accuracy": round(right[1], 5),
        "held_out": held_out.rows,
        "speedup_over_onnx": _ratio(timings, "onnx"),
        "speedup_over_torch": _ratio(timings, "torch"),
        **_common(done, onnx, timings),
    }


def resnet18(folder: Path, seconds: float) -> dict[str, Any]:
    """The shape of ResNet-18 on noise: static INT8, and nobody tries dynamic."""
    noise = np.random.default_rng(20).standard_normal((32, 3, 224, 224)).astype(np.float32)
    onnx = networks.export_onnx(networks.resnet18(), noise[:2], folder / "model.onnx")
    done = _optimized(onnx, folder, Dataset({"image": noise}, None, len(noise)), None, seconds)
    timings = _interleaved(folder, {"image": noise[:1]}, onnx, done.model, seconds)
    common = _common(done, onnx, timings)
    assert not any("dynamic" in name for name in common["tried"]), "dynamic INT8 was tried on convolutions"
    return {"chosen": done.precision or "FP32", "static_speedup": _ratio(timings, "onnx"), **common}


def encoder(folder: Path, seconds: float) -> dict[str, Any]:
    """Six transformer layers over 128 tokens: dynamic INT8, without calibration."""
    noise = np.random.default_rng(20).standard_normal((16, 128, 384)).astype(np.float32)
    onnx = networks.export_onnx(networks.encoder(), noise[:2], folder / "model.onnx", names=("tokens", "encoded"))
    done = _optimized(onnx, folder, None, Dataset({"tokens": noise}, None, len(noise)), seconds)
    timings = _interleaved(folder, {"tokens": noise[:1]}, onnx, done.model, seconds)
    return {
        "chosen": done.precision or "FP32",
        "dynamic_speedup": _ratio(timings, "onnx"),
        **_common(done, onnx, timings),
    }


def _optimized(
    onnx: Path, folder: Path, calibration: Dataset | None, dataset: Dataset | None, seconds: float
) -> Optimized:
    out = folder / "optimized"
    out.mkdir()
    asked = OptimizeAsked(precision="Auto", seconds=seconds)
    return optimize(onnx, out, asked, calibration, lambda _: None, dataset=dataset)


def _common(done: Optimized, onnx: Path, timings: Mapping[str, Timing]) -> dict[str, Any]:
    candidates = done.report["candidates"]
    return {
        "size_ratio": round(onnx.stat().st_size / done.model.stat().st_size, 3),
        "tried": [row["name"] for row in candidates if row["runs"]],
        "bounds": {
            name: [round(compare(timing, timings["chosen"]).low, 3), round(compare(timing, timings["chosen"]).high, 3)]
            for name, timing in timings.items()
            if name != "chosen"
        },
        "timings": {
            name: {
                "milliseconds": round(timing.seconds * 1e3, 4),
                "windows": timing.windows,
                "runs": timing.runs,
                "discarded": round(timing.discarded, 3),
                "clock": timing.clock,
            }
            for name, timing in timings.items()
        },
        "candidates": candidates,
    }


def _ratio(timings: Mapping[str, Timing], over: str) -> float:
    return round(compare(timings[over], timings["chosen"]).value, 3)


def _interleaved(
    folder: Path, feed: Mapping[str, np.ndarray], onnx: Path, chosen: Path, seconds: float, eager: str | None = None
) -> dict[str, Timing]:
    arrays = folder / "feed.npz"
    np.savez(arrays, allow_pickle=False, **feed)
    variants = {"onnx": ("onnx", str(onnx)), "chosen": ("onnx", str(chosen))}
    if eager is not None:
        variants["torch"] = ("torch", eager)
    with ExitStack() as stack:
        windows = {name: stack.enter_context(_worker(*variant, str(arrays))) for name, variant in variants.items()}
        return measure(windows, Budget(seconds * len(windows)))


@contextmanager
def _worker(kind: str, model: str, feed: str) -> Iterator[Window]:
    command = [sys.executable, str(_WORKER), kind, model, feed]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        taken, given = process.stdin, process.stdout
        if given.readline() != "ready\n":
            raise RuntimeError(f"the worker for {model} did not start")

        def window(times: int) -> tuple[float, float]:
            taken.write(f"{times}\n")
            taken.flush()
            wall, cpu = given.readline().split()
            return float(wall), float(cpu)

        yield window
        taken.close()


def _missed(found: Mapping[str, Any], key: tuple[str, str], bar: tuple[str, float]) -> str:
    name, figure = key
    if name not in found:
        return ""
    seen, (side, limit) = found[name][figure], bar
    met = seen <= limit if side == "at most" else seen >= limit
    return "" if met else f"{name}.{figure} is {seen}, {side} {limit} is asked"


if __name__ == "__main__":
    sys.exit(main())
