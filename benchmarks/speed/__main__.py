"""What the adapter costs, side by side with the bare base and with other methods of equal size.

    python benchmarks/speed [--size 0.1B] [--output DIR]
    python benchmarks/speed --size 1B --device cuda --batches 1,8,64 --output results/speed-gpu-1B

One process in which the methods take turns; medians, and ratios to the bare base of the same round with their
quartiles. Random weights: speed does not depend on them. Prints a table; with ``--output`` also writes
``results.json`` and ``plot.svg`` there.
"""

import argparse
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from measure import Clock, take_turns
from methods import SIZES, make_methods
from report import contexts_table, plot, table
from tasks import NEW_TOKENS, PROMPT, bytes_kept, decoding, one_token, prefill, training_step


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    size, device = SIZES[arguments.size], arguments.device
    clock = Clock(device)
    methods = {name: make() for name, make in make_methods(size, device).items()}
    results: dict[str, Any] = {
        "command": " ".join(["python benchmarks/speed", *sys.argv[1:]]),
        "machine": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "threads": arguments.threads,
        "clock": clock.name,
        "rounds": arguments.rounds,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "size": arguments.size,
        "layers": size.layers,
        "dtype": str(size.dtype).removeprefix("torch."),
        "training": f"{size.batch} rows of {size.length} tokens",
        "trainable": {name: method.trainable for name, method in methods.items()},
        "bytes_kept": {name: bytes_kept(method, size) for name, method in methods.items()},
        "tasks": {},
        "contexts": {},
    }
    if device == "cuda":
        results["peak_memory"] = {}
        for name, method in methods.items():
            step = training_step(method, size)
            torch.cuda.reset_peak_memory_stats()
            step()
            results["peak_memory"][name] = torch.cuda.max_memory_allocated()
    steps = {name: training_step(method, size) for name, method in methods.items()}
    results["tasks"]["training"] = take_turns(steps, arguments.rounds, clock, size.batch * size.length)
    # Full fine-tuning decodes as the base does.
    decoders = {name: method for name, method in methods.items() if name != "full fine-tuning"}
    for batch in arguments.batches:
        tasks = {name: prefill(method, size, batch) for name, method in decoders.items()}
        timed = take_turns(tasks, arguments.rounds, clock, batch * PROMPT)
        results["tasks"][f"prefill {batch}"] = timed
        tasks = {name: decoding(method, size, batch) for name, method in decoders.items()}
        timed = take_turns(tasks, arguments.rounds, clock, batch * NEW_TOKENS)
        results["tasks"][f"decoding {batch}"] = timed
    for context in arguments.contexts:
        tasks = {name: one_token(methods[name], size, context) for name in ("base", "Excitor, folded")}
        results["contexts"][context] = take_turns(tasks, arguments.rounds, clock, tokens=4)
    print(table(results), contexts_table(results), sep="\n\n")
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        plot(results, arguments.output / "plot.svg")


def _arguments() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="0.1B")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=numbers, default=[1, 8], help="rows that are decoded at once, as 1,8")
    parser.add_argument("--contexts", type=numbers, default=[128, 512, 2048, 8192])
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
