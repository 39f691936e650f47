"""Where the time of a decoded token goes: as PyTorch runs the model by default, and compiled as a whole.

    python benchmarks/speed/decode.py [--size 0.1B] [--output DIR]

One row, 64 tokens in a static cache. The bare base, Excitor in PyTorch's operations and in C++, Excitor switched off,
and LoRA of as many parameters take turns in one process, first eager, then under ``torch.compile``. Beside them the
terms on the keys of all layers called over and over by themselves: their weights and code are then in the caches of
the processor, which in a model the weights of all other layers pass through. Prints a table; with ``--output`` also
writes ``results.json`` there.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from measure import Clock, take_turns
from methods import SIZES, Method, Size, make_methods
from peft import PeftModel
from transformers import StaticCache

from excitor.layer import excitor_layers


CONTEXT = 64
TOKENS = 8  # in a round


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    size, clock = SIZES[arguments.size], Clock("cpu")
    makers = make_methods(size, "cpu")
    chosen = [name for name in makers if name in ("base", "Excitor, folded") or name.startswith("LoRA")]
    methods = {name: makers[name]() for name in chosen}
    excitor = methods["Excitor, folded"]
    results: dict[str, Any] = {
        "command": " ".join(["python benchmarks/speed/decode.py", *sys.argv[1:]]),
        "machine": platform.machine(),
        "threads": arguments.threads,
        "clock": clock.name,
        "rounds": arguments.rounds,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "size": arguments.size,
        "layers": size.layers,
        "trainable": {name: method.trainable for name, method in methods.items()},
    }
    budget = CONTEXT + TOKENS * (arguments.rounds + 2)
    eager = {name: next_tokens(method, size, budget) for name, method in methods.items()}
    if "Excitor, C++" in makers:
        eager["Excitor, C++"] = next_tokens(makers["Excitor, C++"](), size, budget)
    off = makers["Excitor, folded"]()
    cast(PeftModel, off.model).base_model.disable_adapter_layers()  # leaves the modules around the key projections
    eager["Excitor, switched off"] = next_tokens(off, size, budget)
    results["eager"] = take_turns(eager, arguments.rounds, clock, TOKENS)
    compiled = {name: next_tokens(method, size, budget, compiled=True) for name, method in methods.items()}
    results["compiled"] = take_turns(compiled, arguments.rounds, clock, TOKENS)
    alone = take_turns({"terms": terms_alone(excitor, size)}, arguments.rounds, clock, TOKENS)
    results["terms alone"] = alone["terms"]
    print(table(results))
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")


def next_tokens(method: Method, size: Size, budget: int, *, compiled: bool = False) -> Callable[[], None]:
    """A few tokens, each after the ones before it.

    Args:
        method: Its model decodes.
        size: Of the model.
        budget: Tokens that the cache must hold.
        compiled: Whether by way of ``torch.compile``.
    """
    model = method.model.eval()
    cache = StaticCache(config=model.config, max_cache_len=budget)
    torch.manual_seed(1)
    prompt = torch.randint(3, size.vocabulary, (1, CONTEXT))
    step = torch.compile(model) if compiled else model
    # Outside of inference mode, which compiled code could not leave again.
    with torch.no_grad(), method.chosen():
        model(input_ids=prompt, past_key_values=cache, use_cache=True)

    def run() -> None:
        with torch.no_grad(), method.chosen():
            for _ in range(TOKENS):
                step(input_ids=prompt[:, :1], past_key_values=cache, use_cache=True)

    return run


def terms_alone(method: Method, size: Size) -> Callable[[], None]:
    """The terms of all layers for a few tokens, one after the other, and nothing between them."""
    layers = list(excitor_layers(method.model).values())
    torch.manual_seed(1)
    x = torch.randn(1, 1, size.width)

    def run() -> None:
        with torch.no_grad(), method.chosen():
            for _ in range(TOKENS):
                for layer in layers:
                    layer.term("default", x)

    return run


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| | milliseconds a token | speed / base | more than the base, microseconds a layer |",
        "| --- | --- | --- | --- |",
    ]
    for way in ("eager", "compiled"):
        base = results[way]["base"]["seconds"]
        for name, timed in results[way].items():
            low, high = timed["speed"]["quartiles"]
            more = 1e6 * (timed["seconds"] - base) / TOKENS / results["layers"]
            lines.append(
                f"| {way}: {name} | {1e3 / timed['tokens_per_second']:.2f} | "
                f"{timed['speed']['median']:.3f} ({low:.3f} to {high:.3f}) | {more:+.0f} |"
            )
    each = 1e6 / results["terms alone"]["tokens_per_second"] / results["layers"]
    lines.append(f"| the terms alone, over and over | | | {each:.0f} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "0.1B"), default="0.1B")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
