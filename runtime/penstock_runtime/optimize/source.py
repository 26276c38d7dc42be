"""How fast a converted model is beside its own framework: most get faster, some do not, and then somebody should know.

A nearest-neighbour model of scikit-learn answers a row two to three times slower as ONNX. It is served all the same,
since a format that runs code never is; the report and a warning say what it costs.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from penstock_runtime.data import Array, Dataset
from penstock_runtime.failure import is_out_of_memory, shorten

from .report import show_timing
from .running import example, open_timed, runner
from .timing import Budget, compare, measure, repeat

__all__ = ["compare_with_source"]

_SLOWER = 0.9
_SECONDS = 3.0

Reference = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def compare_with_source(
    model: Path, reference: Reference, data: Dataset | None, seconds: float = _SECONDS
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The report's part on both times for one row, and a warning where ONNX is the slower one; never raises for them.

    Both run in this process on what threads it was given; the ONNX model on one.
    """
    try:
        session = open_timed(model)
        feed = example(session, data)
        if feed is None:
            return {}, ()
        reference(feed)
        both = {"onnx": repeat(runner(session, feed)), "source": repeat(lambda: reference(feed))}
        timings = measure(both, Budget(2 * seconds))
    except Exception as error:  # whatever a framework raises when it is run with one row
        if is_out_of_memory(error):
            raise MemoryError from error
        return {"problem": shorten(str(error), 200)}, ()
    ratio = compare(timings["source"], timings["onnx"])
    report = {
        "speedup": round(ratio.value, 3),
        "onnx": show_timing(timings["onnx"]),
        "source": show_timing(timings["source"]),
    }
    if ratio.value >= _SLOWER:
        return report, ()
    times = f"{timings['onnx'].seconds * 1e3:.3g} ms a row, its own framework {timings['source'].seconds * 1e3:.3g} ms"
    return report, (f"as ONNX the model takes {times}: {1 / ratio.value:.1f} times slower",)
