"""How many model repositories a core renders and checks in a second.

From facts and specification to text, parsed again and put to all rules.

The mix is fixed: four models from 2 to 24 tensors through `build_repository`, and an ensemble of four steps, written,
read back and checked with the models of its steps. One of the five counts as one. `per_second` is per second of the
process's own CPU time, so that neighbours on a shared machine do not count; `wall_per_second` is by the clock.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from penstock.api.facts import ModelFacts
from penstock.api.spec import ServerSpec
from penstock.core.modelrepo import (
    Context,
    build_repository,
    check_config,
    config_text,
    parse_config,
    resolve_settings,
)
from penstock.core.modelrepo.proto import new_config

_DIGEST = "sha256:" + "0" * 64
_TABLE = [(f"feature_{index}", "FP32" if index % 3 else "INT64", [-1, 8]) for index in range(20)]
_MODELS: dict[str, tuple[list[Any], list[Any], dict[str, Any], str]] = {
    "digits": ([("image", "FP32", [-1, 8, 8])], [("probabilities", "FP32", [-1, 10])], {}, "1"),
    "image": (
        [("image", "UINT8", [-1, -1, -1, 3])],
        [("label", "INT64", [-1]), ("scores", "FP32", [-1, 1000])],
        {"batching": {"maxBatchSize": 16, "preferredBatchSizes": [8, 16], "maxQueueDelay": "1ms"}},
        "4",
    ),
    "tokens": (
        [(name, "INT64", [-1, -1]) for name in ("input_ids", "attention_mask", "token_type_ids")],
        [("last_hidden_state", "FP32", [-1, -1, 768]), ("pooled", "FP32", [-1, 768])],
        {"batching": {"queueTimeout": "1s"}, "config": {"optimization": {"graph": {"level": 1}}}},
        "2",
    ),
    "table": (_TABLE, [(f"head_{index}", "FP32", [-1, 2]) for index in range(4)], {"flags": {"log-verbose": "0"}}, "2"),
}


def main() -> None:
    """Run for a while, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--output", type=Path, default=Path("build/bench/repository.json"))
    arguments = parser.parse_args()
    mix = make_mix()
    cpu, wall = measure([work for work, _ in mix.values()], arguments.seconds)
    report = {
        "per_second": round(cpu),
        "wall_per_second": round(wall),
        "mix": {
            name: {"tensors": tensors, "per_second": round(measure([work], arguments.seconds / 10)[0])}
            for name, (work, tensors) in mix.items()
        },
        "rules": "all",
        "python": platform.python_version(),
        "cpu": cpu_name(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def make_mix() -> dict[str, tuple[Callable[[], None], int]]:
    """The work of each part of the mix, and how many tensors it has."""
    mix = {}
    for name, (inputs, outputs, server, cpu) in _MODELS.items():
        facts, spec = make_facts(inputs, outputs), ServerSpec.model_validate(server)
        mix[name] = (lambda f=facts, s=spec, n=name, c=Fraction(cpu): render(f, s, n, c), len(inputs) + len(outputs))
    steps = {f"step_{index}": make_facts([(f"in_{index}", "FP32", [-1, 8])], [(f"out_{index}", "FP32", [-1, 8])])
             for index in range(4)}  # fmt: skip
    models = {
        name: parse_config(build_repository(facts, name, resolve_settings(None, facts, 1)).config_text or "")
        for name, facts in steps.items()
    }
    context = Context(directory="pipeline", models=models, strict=True)
    mix["ensemble"] = (lambda: chain(context), 2 * len(steps))
    return mix


def make_facts(inputs: list[Any], outputs: list[Any]) -> ModelFacts:
    """Facts of an ONNX model whose batching is proven."""
    tensors = [[{"name": n, "dataType": t, "dims": d} for n, t, d in group] for group in (inputs, outputs)]
    artifact = {"repository": "registry/bench", "manifest": _DIGEST, "layer": _DIGEST, "sizeBytes": 10_000_000}
    return ModelFacts.model_validate(
        {"format": "ONNX", "digest": _DIGEST, "artifact": artifact, "batching": True,
         "inputs": tensors[0], "outputs": tensors[1]}
    )  # fmt: skip


def render(facts: ModelFacts, spec: ServerSpec, name: str, cpu: Fraction) -> None:
    plan = build_repository(facts, name, resolve_settings(spec, facts, cpu))
    assert not plan.problems, plan.problems


def chain(context: Context) -> None:
    """An ensemble that runs its models one after the other."""
    config = new_config()
    config.name, config.platform, config.max_batch_size = "pipeline", "ensemble", 32
    config.input.add(name="x0", data_type="TYPE_FP32", dims=[8])
    config.output.add(name="x4", data_type="TYPE_FP32", dims=[8])
    for index in range(4):
        step = config.ensemble_scheduling.step.add(model_name=f"step_{index}", model_version=-1)
        step.input_map[f"in_{index}"] = f"x{index}"
        step.output_map[f"out_{index}"] = f"x{index + 1}"
    problems = check_config(parse_config(config_text(config)), context)
    assert not problems, problems


def measure(works: list[Callable[[], None]], seconds: float) -> tuple[float, float]:
    """Medians over short rounds: repositories per CPU second, and per second by the clock."""
    for work in works:
        work()
    cpu, wall = [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        clock, used = time.perf_counter(), time.process_time()
        for _ in range(20):
            for work in works:
                work()
        done = 20 * len(works)
        cpu.append(done / (time.process_time() - used))
        wall.append(done / (time.perf_counter() - clock))
    return statistics.median(cpu), statistics.median(wall)


def cpu_name() -> str:
    """The processor as Linux names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
