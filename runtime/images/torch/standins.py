"""Gives torch's wheel from PyPI what it links of NVIDIA's libraries, without those libraries: images without a GPU.

    python3 standins.py /opt/venv/lib/python3.11/site-packages/torch/lib

Torch's own libraries name a dozen GPU libraries of together 3.4 GB, and the loader wants each before the first line
runs, though on a CPU nothing in them is called. This makes one small library with every function of theirs that torch asks
for, each of which ends the process with a sentence, and one empty library for each missing name that brings it in. The
CUDA runtime and CUPTI are called while torch is imported, and stay real. Needs gcc and readelf; run once, by the build.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

_SHARED = "libpenstock-nogpu.so"
_DRIVER = {"libcuda.so.1"}
"""Of the driver, which hosts with a GPU bring: torch asks for it when it wants one."""
_MESSAGE = "this image has no GPU libraries, and one was called: use a CPU, or an image with CUDA\\n"


def main() -> int:
    """Make the stand-ins beside torch's libraries; returns the exit code."""
    folder = Path(sys.argv[1])
    own = sorted(folder.glob("*.so*"))
    real = sorted(folder.parent.parent.glob("nvidia/**/*.so*"))
    present = {path.name for path in (*own, *real)}
    absent = {name for path in own for name in needed(path)} - present - _DRIVER
    wanted = sorted(name for name in absent if re.match(r"lib(cu|nv|nccl)", name))
    defined, undefined = set[str](), set[str]()
    for path in (*own, *real):
        found = symbols(path)
        defined |= found["defined"]
        undefined |= found["undefined"]
    functions = sorted(name for name in undefined - defined if re.match(r"(cu|nv|nccl)", name))
    if not wanted or not functions:
        print(f"{folder} lacks nothing", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        build(folder, Path(scratch), wanted, functions)
    print(f"{len(functions)} functions of {', '.join(wanted)}")
    return 0


def needed(path: Path) -> list[str]:
    """Names of the libraries that a library is linked with."""
    return re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-dW", str(path)))


def symbols(path: Path) -> dict[str, set[str]]:
    """Names that a library defines, and those that others must; without their versions."""
    found: dict[str, set[str]] = {"defined": set(), "undefined": set()}
    for line in run("readelf", "--dyn-syms", "-W", str(path)).splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[0].rstrip(":").isdigit() and fields[4] != "WEAK":
            found["undefined" if fields[6] == "UND" else "defined"].add(fields[7].partition("@")[0])
    return found


def build(folder: Path, scratch: Path, wanted: list[str], functions: list[str]) -> None:
    """Compile the library of functions, and an empty one for each name that is linked with it."""
    source = scratch / "absent.c"
    lines = ["#include <stdlib.h>", "#include <unistd.h>", f'static const char words[] = "{_MESSAGE}";']
    lines += ["void penstock_absent(void) { if (write(2, words, sizeof words - 1)) {} abort(); }"]
    lines += [f'void {name}(void) __attribute__((alias("penstock_absent")));' for name in functions]
    source.write_text("\n".join(lines) + "\n")
    link = ("gcc", "-shared", "-fPIC", "-w", "-O1", "-s")
    run(*link, "-o", str(folder / _SHARED), f"-Wl,-soname,{_SHARED}", str(source))
    for name in wanted:
        options = (f"-Wl,-soname,{name}", "-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN")
        run(*link, "-o", str(folder / name), *options, str(folder / _SHARED), "-x", "c", "/dev/null")


def run(*command: str) -> str:
    """Output of a program; raises CalledProcessError."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - of this build


if __name__ == "__main__":
    sys.exit(main())
