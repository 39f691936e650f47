# ruff: noqa: E402  (shares the clock and the models of benchmarks/speed)
"""What it costs to see: visual prompts beside a projector as in LLaVA and visual adaption prompts.

    python benchmarks/vision [--size 0.1B] [--output DIR]
    python benchmarks/vision --size 8B --device cuda --output results/vision-gpu-8B

One random language model, random features; methods of about equal trainable size take turns in one process. For each
number of pictures a row and of tokens a picture: forward and backward pass, prefill of a text with them, decoding with
the cache, as speed relative to the bare language model on the same text; bytes kept for the backward pass, bytes held
for a row while it decodes, and on a GPU the most that a forward and backward pass allocates, each method by itself.
"""

import argparse
import gc
import json
import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn


sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "speed")]

from alternatives import ALTERNATIVES
from measure import Clock, take_turns
from methods import SIZES, Size, make_base
from transformers import CLIPVisionConfig, CLIPVisionModel

from excitor import ExcitorConfig
from excitor.diagnostics.saved import saved_tensors
from excitor.vision import ExcitorForConditionalGeneration
from excitor.visual import Pictures, seeing


WIDTH = 256  # of the features
RANK = 64  # of the shared trunk of Excitor's maps
TEXT, NEW_TOKENS = 64, 16
TASKS = ("training", "prefill", "decoding")


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    size, clock, device = SIZES[arguments.size], Clock(arguments.device), arguments.device
    makers = model_makers(size, device)
    results: dict[str, Any] = {
        "command": " ".join(["python benchmarks/vision", *sys.argv[1:]]),
        "machine": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "threads": arguments.threads,
        "clock": clock.name,
        "rounds": arguments.rounds,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "size": arguments.size,
        "text": TEXT,
        "trainable": {},
        "cases": [{"pictures": p, "tokens": t} for t in arguments.tokens for p in arguments.pictures],
    }
    # All take turns where they fit side by side; on a GPU each with the base alone.
    names = [name for name in makers if name != "base"]
    for group in [names] if device == "cpu" else [[name] for name in names]:
        for case in results["cases"] if device == "cuda" else ():
            peak = peak_memory(makers[group[0]](), size, case["pictures"], case["tokens"])
            case.setdefault("peak_memory", {})[group[0]] = peak
        models = {name: makers[name]() for name in ("base", *group)}
        results["trainable"] |= {name: trainable(model) for name, model in models.items()}
        for case in results["cases"]:
            found = measure(models, size, case["pictures"], case["tokens"], arguments.rounds, clock)
            for what, numbers in found.items():
                case[what] = numbers | case.get(what, {})
            print(f"{case['pictures']} x {case['tokens']} tokens done", file=sys.stderr)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        plot(results, arguments.output / "plot.svg")
    print(table(results))


def model_makers(size: Size, device: str) -> dict[str, Callable[[], nn.Module]]:
    """The bare language model first; the others train about as many parameters as Excitor does."""

    def base() -> Any:
        return make_base(size, device).requires_grad_(False)

    def bare() -> nn.Module:
        model = base()
        model.enable_input_require_grads()  # trains nothing, and passes gradients on as it does under a projector
        return model

    def excitor() -> nn.Module:
        torch.manual_seed(0)
        encoder = CLIPVisionModel(CLIPVisionConfig(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=4))
        return ExcitorForConditionalGeneration.from_frozen(base(), encoder, ExcitorConfig(vision_rank=RANK))

    wanted = trainable(excitor())

    def placed(make: Callable[[], nn.Module]) -> nn.Module:
        return make().to(device).eval()

    others = {name: (lambda make=make: make(base(), WIDTH, wanted)) for name, make in ALTERNATIVES.items()}
    return {name: partial(placed, make) for name, make in {"base": bare, "Excitor": excitor, **others}.items()}


def trainable(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def measure(
    models: dict[str, nn.Module], size: Size, pictures: int, tokens: int, rounds: int, clock: Clock
) -> dict[str, Any]:
    """Training, prefill, decoding and bytes held, for one row with so many pictures of so many features each."""
    given = {name: _inputs(model, size, pictures, tokens) for name, model in models.items()}

    @torch.inference_mode()
    def fill(name: str) -> Any:
        return models[name](**given[name], use_cache=True, logits_to_keep=1)

    def decode(name: str) -> Any:
        state = fill(name)
        model: Any = models[name]
        text = getattr(model, "language_model", model)
        token = given[name]["input_ids"][:, :1]
        features = given[name].get("image_features")
        seen = Pictures.of_rows(features, torch.tensor([pictures])) if name == "Excitor" else None

        @torch.inference_mode()
        def run() -> None:
            with seeing(seen):
                for _ in range(NEW_TOKENS):
                    text(token, past_key_values=state.past_key_values, use_cache=True)
            state.past_key_values.crop(-NEW_TOKENS)

        return run

    def learn(name: str) -> Any:
        return lambda: forward(models[name], given[name]).backward()

    kept = {}
    for name, model in models.items():
        model.train()
        with saved_tensors(model) as saved:
            forward(model, given[name])
        kept[name] = saved.bytes
    training = take_turns({name: learn(name) for name in models}, rounds, clock, TEXT)
    for model in models.values():
        model.zero_grad()
        model.eval()
    held = {name: _cache_bytes(fill(name).past_key_values) for name in models}
    if "Excitor" in models:
        held["Excitor"] += _folded_bytes(models["Excitor"], given["Excitor"]["image_features"], pictures)
    return {
        "training": training,
        "prefill": take_turns({name: (lambda name=name: fill(name)) for name in models}, rounds, clock, TEXT),
        "decoding": take_turns({name: decode(name) for name in models}, rounds, clock, NEW_TOKENS),
        "bytes_kept": kept,
        "bytes_held": held,
    }


def forward(model: nn.Module, inputs: dict[str, Any]) -> Any:
    """Loss of the text's own words."""
    return model(**inputs, labels=inputs["input_ids"], use_cache=False).loss


def peak_memory(model: nn.Module, size: Size, pictures: int, tokens: int) -> int | None:
    """Most bytes that a model alone on the GPU needs for forward and backward; None if it has fewer."""
    model.train()
    gc.collect()  # models before it, which hooks hold in circles
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        forward(model, _inputs(model, size, pictures, tokens)).backward()
    except torch.cuda.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_allocated()


def _inputs(model: nn.Module, size: Size, pictures: int, tokens: int) -> dict[str, Any]:
    """The same words and features for every model; no features for the bare one."""
    device = next(model.parameters()).device
    torch.manual_seed(1)
    words = torch.randint(3, size.vocabulary, (1, TEXT), device=device)
    given: dict[str, Any] = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    if hasattr(model, "language_model"):
        given["image_features"] = torch.randn(pictures, tokens, WIDTH, device=device)
    if isinstance(model, ExcitorForConditionalGeneration):
        given["num_images"] = torch.tensor([pictures])
    return given


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


def table(results: dict[str, Any]) -> str:
    """Markdown: speed relative to the bare model on the text alone, memory in MiB; a line for each case and method."""
    memory = {"kept for backward": "bytes_kept", "held a row": "bytes_held", "peak": "peak_memory"}
    lines = [["pictures x features", "method", *TASKS, *memory]]
    lines.append(["---"] * len(lines[0]))
    for case in results["cases"]:
        for name in results["trainable"]:
            cells = [f"{case['pictures']} x {case['tokens']}", name]
            cells += [f"{case[task][name]['speed']['median']:.2f}" for task in TASKS]
            for counted in memory.values():
                found = case.get(counted, {}).get(name)
                cells.append("" if found is None else f"{found / 2**20:.1f}")
            lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(results: dict[str, Any], path: Path) -> None:
    """Speed over visual tokens in all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    axes = figure.subplots(1, len(TASKS))
    cases = sorted(results["cases"], key=lambda case: case["pictures"] * case["tokens"])
    for plotted, task in zip(axes, TASKS, strict=True):
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
