"""What the adapter costs, side by side with the bare base and with other methods of equal size.

    python benchmarks/speed [--size 0.1B] [--output DIR]
    python benchmarks/speed --size 1B --device cuda --batches 1,8,64 --output results/speed-gpu-1B

One process in which the methods take turns; medians, and ratios to the bare base and to LoRA of the same round with
their quartiles. On a GPU each method takes turns with these two alone, and memory is that of a method by itself.
Random weights: speed does not depend on them. Prints a table; with ``--output`` also writes ``results.json`` and
``plot.svg`` there.
"""

import argparse
import gc
import json
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from measure import Clock, take_turns
from methods import LORA, SIZES, Method, Size, make_methods
from report import contexts_table, plot, table
from tasks import NEW_TOKENS, PROMPT, bytes_kept, decoding, one_token, prefill, training_step


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    size, device = SIZES[arguments.size], arguments.device
    clock, makers = Clock(device), make_methods(size, device)
    lora = next(name for name in makers if name.startswith(LORA))
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
        "against": lora,
        "trainable": {},
        "bytes_kept": {},
        "tasks": {},
        "contexts": {},
        "out_of_memory": [],
    }
    if device == "cuda":
        results["peak_memory"] = {name: peak_memory(make, size) for name, make in makers.items()}
    # All take turns where they fit side by side; on a GPU each with the base and LoRA alone.
    others = [name for name in makers if name not in ("base", lora)]
    groups = [["base", lora, *others]] if device == "cpu" else [["base", lora, name] for name in others]
    for group in groups:
        try:
            measure({name: makers[name]() for name in group}, size, clock, arguments, results)
        except torch.cuda.OutOfMemoryError:
            results["out_of_memory"].append(group[-1])
    methods = {name: makers[name]() for name in ("base", "Excitor, folded")}
    for context in arguments.contexts:
        tasks = {name: one_token(method, size, context) for name, method in methods.items()}
        results["contexts"][context] = take_turns(tasks, arguments.rounds, clock, tokens=4)
    print(table(results), contexts_table(results), sep="\n\n")
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        plot(results, arguments.output / "plot.svg")


def measure(
    methods: dict[str, Method], size: Size, clock: Clock, arguments: argparse.Namespace, results: dict[str, Any]
) -> None:
    """Let some methods take turns, and add what is new to the results."""

    def timed(title: str, tasks: dict[str, Callable[[], None]], tokens: int) -> None:
        found = take_turns(tasks, arguments.rounds, clock, tokens, results["against"])
        results["tasks"][title] = found | results["tasks"].get(title, {})

    for name, method in methods.items():
        if name not in results["trainable"]:
            results["trainable"][name] = method.trainable
            results["bytes_kept"][name] = bytes_kept(method, size)
    timed("training", {name: training_step(each, size) for name, each in methods.items()}, size.batch * size.length)
    # Full fine-tuning decodes as the base does.
    decoders = {name: method for name, method in methods.items() if name != "full fine-tuning"}
    for batch in arguments.batches:
        timed(
            f"prefill {batch}", {name: prefill(each, size, batch) for name, each in decoders.items()}, batch * PROMPT
        )
        tasks = {name: decoding(each, size, batch) for name, each in decoders.items()}
        timed(f"decoding {batch}", tasks, batch * NEW_TOKENS)


def peak_memory(make: Callable[[], Method], size: Size) -> int | None:
    """Most bytes that a method alone on the GPU needs for training steps; None if they are not to be had."""
    gc.collect()  # models before it, which hooks hold in circles
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        step = training_step(make(), size)
        for _ in range(2):  # the optimizer makes its state in the first
            step()
    except torch.cuda.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_allocated()


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
