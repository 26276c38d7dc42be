"""The machine and the tools that numbers were measured with: part of every report, and of a conversion's name.

Standard library only, and read before the first byte of a model is.
"""

import contextlib
import math
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["cpu_limit", "describe_machine", "speed_flags", "tool_versions", "whole_cores"]

_TOOLS = (
    "keras", "lightgbm", "numpy", "onnx", "onnx-ir", "onnxmltools", "onnxruntime", "onnxscript", "safetensors",
    "scikit-learn", "skl2onnx", "skops", "tensorflow", "tensorflow-cpu", "tf2onnx", "torch", "treelite", "xgboost",
    "xgboost-cpu",
)  # fmt: skip
_FLAGS = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_bf16", "amx_int8", "amx_tile", "asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip
"""Instruction sets by which runtimes choose their kernels; other flags change no time."""
_CPU_INFO = Path("/proc/cpuinfo")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_1, _PERIOD_1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def tool_versions() -> dict[str, str]:
    """Version of every tool that is installed here and may touch a model, Penstock included."""
    found = {}
    for name in _TOOLS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return {**found, "python": platform.python_version()}


def speed_flags(info: Path = _CPU_INFO) -> tuple[str, ...]:
    """The CPU's instruction sets that decide which kernels run, sorted."""
    words = set(_field(info, "flags", "Features").split())
    return tuple(sorted(words & set(_FLAGS)))


def cpu_limit() -> float:
    """Cores that this container may use: its quota, else all that it is allowed to run on."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = _QUOTA.read_text().split()
        return min(float(allowed), int(quota) / int(period))
    with contextlib.suppress(OSError, ValueError):
        quota_1 = int(_QUOTA_1.read_text())
        return min(float(allowed), quota_1 / int(_PERIOD_1.read_text())) if quota_1 > 0 else float(allowed)
    return float(allowed)


def whole_cores() -> int:
    """Threads that can run at once without being throttled; at least one."""
    return max(1, math.floor(cpu_limit() + 0.01))


def describe_machine() -> dict[str, Any]:
    """The report's `machine`."""
    name = _field(_CPU_INFO, "model name", "CPU part") or platform.machine()
    return {"cpu": name[:256], "flags": list(speed_flags()), "cores": round(cpu_limit(), 3)}


def _field(info: Path, *names: str) -> str:
    try:
        lines = info.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in names:
            return value.strip()
    return ""
