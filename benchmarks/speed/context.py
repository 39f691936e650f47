"""What the adapter costs as sequences grow: linear in tokens where all are computed, nothing more for a longer cache.

    python benchmarks/speed/context.py [--output DIR]

For each number of tokens: a training step on one row of them, of the bare base and with Excitor; the adapter's own
part of it, forward and backward of its terms alone; one token decoded with that many in the cache, of base and
Excitor; and the time spent in the adapter's terms while decoding. The model is small so that attention over 16k tokens
ends on a CPU. Methods take turns in one process; medians. Prints a table; with ``--output`` also writes
``results.json`` and ``plot.png`` there.
"""

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib
import torch
from measure import Clock, take_turns
from methods import Method, Size, make_base
from peft import get_peft_model
from tasks import one_token, training_step

import excitor.layer
from excitor import ExcitorConfig
from excitor.layer import ExcitorLayer, excitor_layers
from excitor.recompute import adapter_term


matplotlib.use("Agg")
from matplotlib import pyplot


SHAPE = {"layers": 2, "width": 128, "heads": 4, "key_heads": 2, "hidden": 352, "vocabulary": 256, "batch": 1}
METHODS = ("base", "Excitor")
DECODED = 16  # tokens in a round


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    torch.set_num_threads(1)
    clock = Clock("cpu")
    results: dict[str, Any] = {
        "command": " ".join(["python benchmarks/speed/context.py", *sys.argv[1:]]),
        "machine": platform.machine(),
        "threads": 1,
        "clock": clock.name,
        "rounds": {"training": arguments.rounds, "other": arguments.short_rounds},
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "shape": SHAPE | {"dtype": "float32"},
        "contexts": {},
    }
    methods = make_methods(max(arguments.contexts) + 64)
    results["trainable"] = methods["Excitor"].trainable
    for context in arguments.contexts:
        size = Size(**SHAPE, length=context)
        steps = {name: training_step(method, size) for name, method in methods.items()}
        decoders = {name: one_token(method, size, context, DECODED) for name, method in methods.items()}
        own = {"adapter": terms_alone(methods["Excitor"], context)}
        found = {
            "training": take_turns(steps, arguments.rounds, clock, context),
            "training, adapter alone": take_turns(own, arguments.short_rounds, clock, context)["adapter"],
            "decoding": take_turns(decoders, arguments.short_rounds, clock, DECODED),
            "decoding, in the adapter": seconds_in_terms(decoders["Excitor"], arguments.short_rounds),
        }
        results["contexts"][context] = found
        print(row(context, found), flush=True)
    results["exponents"] = exponents(results["contexts"])
    print(table(results))
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        plot(results, arguments.output / "plot.png")


def make_methods(positions: int) -> dict[str, Method]:
    """The bare base, and Excitor with its defaults and gates that are open."""
    size = Size(**SHAPE, length=1)
    adapted = get_peft_model(
        make_base(size, "cpu", positions), ExcitorConfig(task_type="CAUSAL_LM", gate_init_std=0.1)
    )
    return {
        "base": Method(make_base(size, "cpu", positions).requires_grad_(False), trains=False),
        "Excitor": Method(adapted),
    }


def terms_alone(method: Method, tokens: int) -> Callable[[], None]:
    """Forward and backward of every layer's term, with the gradient of the layer's input, on that many tokens."""
    layers = _layers(method)
    torch.manual_seed(1)
    x = torch.randn(1, tokens, SHAPE["width"], requires_grad=True)
    upstream = torch.randn(1, tokens, layers[0].num_heads * layers[0].head_dim)

    def run() -> None:
        with method.chosen() as model:
            model.train()
            for layer in layers:
                layer.term("default", x).backward(upstream)
            model.zero_grad()
            x.grad = None

    return run


def seconds_in_terms(decode: Callable[[], None], rounds: int) -> float:
    """Median seconds that one decoded token spends in the terms of all layers, folded once before."""
    spent = 0.0

    def timed(*arguments: Any) -> torch.Tensor:
        nonlocal spent
        started = time.process_time()
        result = adapter_term(*arguments)
        spent += time.process_time() - started
        return result

    found = []
    with mock.patch.object(excitor.layer, "adapter_term", timed):
        for _ in range(rounds + 1):
            spent = 0.0
            decode()
            found.append(spent / DECODED)
    assert all(found), "no term was computed where it is timed"
    return statistics.median(found[1:])


def _layers(method: Method) -> list[ExcitorLayer]:
    return list(excitor_layers(method.model).values())


def exponents(contexts: dict[int, dict[str, Any]], least: int = 1024) -> dict[str, float]:
    """How cost grows, ``cost ~ tokens ** exponent``: least squares on logarithms, from ``least`` tokens on.

    Below that, launching operations costs more than what they compute.
    """
    long = {tokens: found for tokens, found in contexts.items() if tokens >= least}
    costs = {
        "training, base": [found["training"]["base"]["seconds"] for found in long.values()],
        "training, adapter alone": [found["training, adapter alone"]["seconds"] for found in long.values()],
        "decoding, base": [found["decoding"]["base"]["seconds"] for found in long.values()],
        "decoding, in the adapter": [found["decoding, in the adapter"] for found in long.values()],
    }
    if len(long) < 2:
        return {}
    at = [math.log(tokens) for tokens in long]
    return {
        name: statistics.linear_regression(at, [math.log(value) for value in values]).slope
        for name, values in costs.items()
    }


HEAD = (
    *("tokens", "training, base", "Excitor", "ratio", "adapter alone", "a token"),
    *("decoding a token, base", "Excitor", "ratio", "in the adapter"),
)


def row(tokens: int, found: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [f"{tokens:,}"]
    training = found["training"]
    cells += [f"{1000 * training[name]['seconds']:,.1f} ms" for name in METHODS]
    own = found["training, adapter alone"]["seconds"]
    cells += [_ratio(training), f"{1000 * own:,.2f} ms", f"{1e6 * own / tokens:.2f} µs"]
    cells += [f"{1e3 / found['decoding'][name]['tokens_per_second']:.2f} ms" for name in METHODS]
    cells += [_ratio(found["decoding"]), f"{1e6 * found['decoding, in the adapter']:.0f} µs"]
    return f"| {' | '.join(cells)} |"


def _ratio(timed: dict[str, Any]) -> str:
    """Time of Excitor over that of the base: median and quartiles."""
    speed = timed["Excitor"]["speed"]
    low, high = speed["quartiles"]
    return f"{1 / speed['median']:.3f} ({1 / high:.3f} to {1 / low:.3f})"


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + " --- |" * len(HEAD)]
    lines += [row(tokens, found) for tokens, found in results["contexts"].items()]
    return "\n".join(lines) + "\n\n" + json.dumps(results["exponents"], indent=2)


def plot(results: dict[str, Any], path: Path) -> None:
    """Training and decoding against the number of tokens, with the adapter's own part."""
    contexts = results["contexts"]
    tokens = list(contexts)
    figure, (training, decoding) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name in METHODS:
        training.plot(tokens, [found["training"][name]["seconds"] for found in contexts.values()], "o-", label=name)
        times = [1000 / found["decoding"][name]["tokens_per_second"] for found in contexts.values()]
        decoding.plot(tokens, times, "o-", label=name)
    own = [found["training, adapter alone"]["seconds"] for found in contexts.values()]
    training.plot(tokens, own, "s-", label="the adapter's terms alone")
    linear = [own[-1] * count / tokens[-1] for count in tokens]
    training.plot(tokens, linear, ":", color="black", linewidth=1, label="proportional to tokens")
    training.set(xlabel="tokens in the row", ylabel="seconds of a training step", yscale="log")
    inside = [1000 * found["decoding, in the adapter"] for found in contexts.values()]
    decoding.plot(tokens, inside, "s-", label="inside the adapter's terms")
    decoding.set(xlabel="tokens in the cache", ylabel="ms for one decoded token")
    decoding.set_ylim(bottom=0)
    for axes in (training, decoding):
        axes.set_xscale("log", base=2)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _arguments() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=numbers, default=[2**power for power in range(7, 15)])
    parser.add_argument("--rounds", type=int, default=5, help="of a training step")
    parser.add_argument("--short-rounds", type=int, default=15, help="of everything else")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
