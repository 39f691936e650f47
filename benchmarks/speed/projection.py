"""What the adapter adds to one key projection, over and over and with cold caches.

    python benchmarks/speed/projection.py [--output DIR]

The key projections of the 0.1B model on a CPU, bare and with Excitor in PyTorch's operations and in C++, for several
numbers of tokens. "Cold" means that other weights pass through the processor's caches before each call, as they do
between two layers of a model. Medians in microseconds of the wall; the methods take turns.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from methods import SIZES, make_methods
from torch import Tensor

from excitor.layer import excitor_layers


TOKENS = (1, 8, 64)
TURNS = 3
FLUSH = 112 << 20  # bytes of other weights, more than the caches hold


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    makers, width = make_methods(SIZES["0.1B"], "cpu"), SIZES["0.1B"].width
    chosen = [name for name in ("Excitor, folded", "Excitor, C++") if name in makers]
    methods = {name: makers[name]() for name in chosen}
    layers = {name: list(excitor_layers(method.model.eval()).values()) for name, method in methods.items()}
    bare = [layer.base_layer for layer in layers[chosen[0]]]
    weights, row = torch.randn(FLUSH // 4 // width, width), torch.randn(width)
    found: dict[str, dict[str, float]] = {}
    for tokens in TOKENS:
        x = torch.randn(1, tokens, width)
        for state, between in (("over and over", None), ("cold", lambda: torch.mv(weights, row))):
            times: dict[str, list[float]] = {"bare": [], **{name: [] for name in methods}}
            for turn in range(TURNS + 1):
                with torch.no_grad():
                    values = {"bare": timed(bare, x, between, arguments.calls)}
                    for name, method in methods.items():
                        with method.chosen():
                            values[name] = timed(layers[name], x, between, arguments.calls)
                for name in times if turn else ():  # the first turn warms up
                    times[name] += values[name]
            found[f"{tokens}, {state}"] = {name: statistics.median(values) for name, values in times.items()}
    results = {
        "command": " ".join(["python benchmarks/speed/projection.py", *sys.argv[1:]]),
        "machine": platform.machine(),
        "threads": arguments.threads,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "microseconds": found,
    }
    print(table(found))
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "projection.json").write_text(json.dumps(results, indent=2) + "\n")


def timed(layers: list, x: Tensor, between: Callable[[], Any] | None, calls: int) -> list[float]:
    """Microseconds of each of some calls, of one layer after the other."""
    values = []
    for call in range(calls):
        if between is not None:
            between()
        layer = layers[call % len(layers)]
        started = time.perf_counter_ns()
        layer(x)
        values.append((time.perf_counter_ns() - started) / 1e3)
    return values


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    names = list(next(iter(found.values())))
    lines = [f"| tokens | {' | '.join(names)} |", f"|{' --- |' * (len(names) + 1)}"]
    for case, times in found.items():
        cells = [f"{times['bare']:.1f}", *(f"{times[name] - times['bare']:+.1f}" for name in names[1:])]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
