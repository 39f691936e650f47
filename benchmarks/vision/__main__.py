# ruff: noqa: E402  (shares the clock and the models of benchmarks/speed)
"""What it costs to see: visual prompts beside a projector as in LLaVA and visual adaption prompts.

    python benchmarks/vision [--size 0.1B] [--output DIR]
    python benchmarks/vision --size 8B --device cuda --output results/vision-gpu-8B

One random language model, random features; methods of about equal trainable size take turns in one process. For each
number of pictures a row and of tokens a picture: prefill of a text with them, then decoding with the cache, as speed
relative to the bare language model on the same text, and the bytes that are held for a row while it decodes.
"""

import argparse
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn


sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "speed")]

from alternatives import Projector, VisualAdaptionPrompts
from measure import Clock, take_turns
from methods import SIZES, Size, make_base
from rich.console import Console
from rich.table import Table
from transformers import CLIPVisionConfig, CLIPVisionModel

from excitor import ExcitorConfig
from excitor.vision import ExcitorForConditionalGeneration
from excitor.visual import Pictures, seeing


WIDTH = 256  # of the features
RANK = 64  # of the shared trunk of Excitor's maps
TEXT, NEW_TOKENS = 64, 16


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    size, clock = SIZES[arguments.size], Clock(arguments.device)
    models = make_models(size, arguments.device)
    results: dict[str, Any] = {
        "command": " ".join(["python benchmarks/vision", *sys.argv[1:]]),
        "machine": torch.cuda.get_device_name() if arguments.device == "cuda" else platform.machine(),
        "threads": arguments.threads,
        "clock": clock.name,
        "rounds": arguments.rounds,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "size": arguments.size,
        "text": TEXT,
        "trainable": {name: trainable(model) for name, model in models.items()},
        "cases": [],
    }
    for tokens in arguments.tokens:
        for pictures in arguments.pictures:
            case = measure(models, size, pictures, tokens, arguments.rounds, clock)
            results["cases"].append({"pictures": pictures, "tokens": tokens, **case})
            print(f"{pictures} x {tokens} tokens done", file=sys.stderr)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        plot(results, arguments.output / "plot.svg")
    Console(width=120).print(table(results))


def make_models(size: Size, device: str) -> dict[str, nn.Module]:
    """The bare language model first; the others train about as many parameters as Excitor does."""
    torch.manual_seed(0)
    encoder = CLIPVisionModel(CLIPVisionConfig(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=4))
    excitor = ExcitorForConditionalGeneration.from_frozen(
        make_base(size, device), encoder, ExcitorConfig(vision_rank=RANK)
    )
    wanted = trainable(excitor)
    hidden = round((wanted - size.width) / (WIDTH + size.width + 1))
    length = round((wanted - WIDTH * size.width) / (size.layers * size.width))
    made = {
        "base": make_base(size, device).requires_grad_(False),
        "Excitor": excitor,
        "projector": Projector(make_base(size, device).requires_grad_(False), WIDTH, hidden),
        "adaption prompts": VisualAdaptionPrompts(make_base(size, device), WIDTH, max(1, length)),
    }
    return {name: model.to(device).eval() for name, model in made.items()}


def trainable(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def measure(
    models: dict[str, nn.Module], size: Size, pictures: int, tokens: int, rounds: int, clock: Clock
) -> dict[str, Any]:
    """Prefill, decoding and bytes held, for one row with so many pictures of so many features each."""
    device = next(models["base"].parameters()).device
    torch.manual_seed(1)
    inputs = {"input_ids": torch.randint(3, size.vocabulary, (1, TEXT), device=device)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    features = torch.randn(pictures, tokens, WIDTH, device=device)

    def given(name: str) -> dict[str, Any]:
        if name == "base":
            return inputs
        seen = {"image_features": features}
        return inputs | seen | ({"num_images": torch.tensor([pictures])} if name == "Excitor" else {})

    @torch.inference_mode()
    def fill(name: str) -> Any:
        return models[name](**given(name), use_cache=True, logits_to_keep=1)

    def decode(name: str) -> Any:
        state = fill(name)
        model: Any = models[name]
        text = getattr(model, "language_model", model)
        token = inputs["input_ids"][:, :1]
        seen = Pictures.of_rows(features, torch.tensor([pictures])) if name == "Excitor" else None

        @torch.inference_mode()
        def run() -> None:
            with seeing(seen):
                for _ in range(NEW_TOKENS):
                    text(token, past_key_values=state.past_key_values, use_cache=True)
            state.past_key_values.crop(-NEW_TOKENS)

        return run

    held = {name: _cache_bytes(fill(name).past_key_values) for name in models}
    held["Excitor"] += _folded_bytes(models["Excitor"], features, pictures)
    return {
        "prefill": take_turns({name: (lambda name=name: fill(name)) for name in models}, rounds, clock, TEXT),
        "decoding": take_turns({name: decode(name) for name in models}, rounds, clock, NEW_TOKENS),
        "bytes_held": held,
    }


def _cache_bytes(cache: Any) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


@torch.inference_mode()
def _folded_bytes(model: Any, features: torch.Tensor, pictures: int) -> int:
    """Of the visual prompts that are kept from one decoding step to the next."""
    seen = Pictures.of_rows(features, torch.tensor([pictures]))
    with seeing(seen):
        model.language_model(torch.ones(1, 1, dtype=torch.long, device=features.device))
    kept = seen._folded.values() if seen else ()
    return sum(folded.scores.nbytes + folded.values.nbytes for folded in kept)


def table(results: dict[str, Any]) -> Table:
    """Speed relative to the bare model, a line for each case."""
    names = [name for name in results["trainable"] if name != "base"]
    shown = Table(title=f"{results['size']}, speed relative to the bare model on the text alone; MiB held a row")
    for column in (
        "pictures",
        "tokens each",
        *(f"{what} {name}" for what in ("prefill", "decode", "MiB") for name in names),
    ):
        shown.add_column(column, justify="right")
    for case in results["cases"]:
        cells = [str(case["pictures"]), str(case["tokens"])]
        for task in ("prefill", "decoding"):
            cells += [f"{case[task][name]['speed']['median']:.2f}" for name in names]
        cells += [f"{case['bytes_held'][name] / 2**20:.1f}" for name in names]
        shown.add_row(*cells)
    return shown


def plot(results: dict[str, Any], path: Path) -> None:
    """Speed over visual tokens in all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    cases = sorted(results["cases"], key=lambda case: case["pictures"] * case["tokens"])
    for plotted, task in zip(axes, ("prefill", "decoding"), strict=True):
        for name in results["trainable"]:
            plotted.plot(
                [case["pictures"] * case["tokens"] for case in cases],
                [case[task][name]["speed"]["median"] for case in cases],
                marker="o",
                label=name,
            )
        plotted.set(title=task, xlabel="features of all pictures of a row", xscale="log", ylim=(0, None))
    axes[0].set_ylabel("speed relative to the bare model")
    axes[0].legend(fontsize=8)
    figure.savefig(path)


def _arguments() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="0.1B")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=numbers, default=[16, 64, 256, 576], help="features of a picture")
    parser.add_argument("--pictures", type=numbers, default=[1, 4], help="pictures of a row")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
