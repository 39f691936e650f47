"""How well one sees: visual prompts beside a projector and visual adaption prompts, on the embedded scenes.

    python benchmarks/vision/quality.py --output results/vision-quality [--steps 900] [--seeds 0,1,2]

Same frozen language model, encoder, features, rows, order and steps, and about as many trainable parameters. Each
method takes the learning rate that does best on a tuning seed, which is not reported. Every run leaves a file in
DIR/runs; the same command goes on where it was interrupted.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from alternatives import ALTERNATIVES
from torch import nn
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoTokenizer

from excitor.mini.vision import ENCODER_DIR, TEXT_DIR
from excitor.mini.vision.demo import link
from excitor.mini.vision.evaluate import answer, share_right, shuffled
from excitor.mini.vision.lessons import make_lessons
from excitor.mini.vision.train import encode_rows, train_channel
from excitor.mini.vision.words import retain_pages


TUNING_SEED = 100


def main() -> None:
    """Tune, run, and write the table."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    runs = arguments.output / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    chosen: dict[str, float] = {}
    results: dict[str, list[dict[str, Any]]] = {}
    methods = [name for name in METHODS if not arguments.methods or name in arguments.methods]
    for name in methods:
        tuned = {rate: run(name, rate, TUNING_SEED, arguments.steps, runs) for rate in arguments.rates}
        chosen[name] = max(arguments.rates, key=lambda rate: tuned[rate]["mean"])
    for seed in arguments.seeds:
        for name in methods:
            results.setdefault(name, []).append(run(name, chosen[name], seed, arguments.steps, runs))
    text = table(results, chosen, arguments)
    (arguments.output / "README.md").write_text(text, encoding="utf-8")
    print(text)


def _with_encoder(make: Callable[[Any, int, int], nn.Module]) -> nn.Module:
    excitor = link()
    wanted = sum(p.numel() for p in excitor.parameters() if p.requires_grad)
    text = AutoModelForCausalLM.from_pretrained(TEXT_DIR, dtype=torch.float32).requires_grad_(False)
    model: Any = make(text, excitor.config.vision_width, wanted)
    model.encode_images = excitor.encode_images  # a method, so that the encoder is no part of the model
    return model


METHODS: dict[str, Callable[[], nn.Module]] = {
    "Excitor, visual prompts": link,  # the demo's model
    **{name: partial(_with_encoder, make) for name, make in ALTERNATIVES.items()},
}


def run(name: str, rate: float, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Train and test, or read what was found before."""
    path = folder / f"{name.replace(',', '').replace(' ', '-')}--lr-{rate:g}--steps-{steps}--seed-{seed}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    started = time.process_time()
    torch.manual_seed(seed)
    lessons, model = make_lessons(seed), METHODS[name]()
    tokenizer, images = AutoTokenizer.from_pretrained(TEXT_DIR), AutoImageProcessor.from_pretrained(ENCODER_DIR)
    losses = list(train_channel(model, tokenizer, lessons, images, steps=steps, seed=seed, learning_rate=rate))
    trained = time.process_time()
    right, wrong = {}, {}
    for test, asked in lessons.tests.items():
        rows = encode_rows(model, images, asked)
        right[test] = share_right(asked, answer(model, tokenizer, rows))
        wrong[test] = share_right(asked, answer(model, tokenizer, shuffled(rows)))
    found = {
        "method": name,
        "rate": rate,
        "seed": seed,
        "steps": steps,
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "right": right,
        "another's picture": wrong,
        "mean": statistics.mean(right.values()),
        "text": text_rise(model, tokenizer),
        "last_loss": statistics.mean(losses[-20:]),
        "processor_seconds": {"training": trained - started, "tests": time.process_time() - trained},
    }
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"{name}, rate {rate:g}, seed {seed}: {found['mean']:.3f}", file=sys.stderr)
    return found


@torch.no_grad()
def text_rise(model: Any, tokenizer: Any) -> float:
    """Rise of the loss of text without pictures, nats per token."""
    base = AutoModelForCausalLM.from_pretrained(TEXT_DIR, dtype=torch.float32)
    batch = tokenizer(retain_pages(200), padding=True, padding_side="right", return_tensors="pt")
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    return (model(**batch, labels=labels).loss - base(**batch, labels=labels).loss).item()


def table(results: dict[str, list[dict[str, Any]]], chosen: dict[str, float], arguments: argparse.Namespace) -> str:
    """Means over the seeds, and their range."""
    tests = list(next(iter(results.values()))[0]["right"])
    lines = [
        "# Seeing: visual prompts and what one would use instead",
        "",
        f"    python benchmarks/vision/quality.py {' '.join(sys.argv[1:])}",
        "",
        f"{arguments.steps} steps of 32 rows; seeds {', '.join(map(str, arguments.seeds))}; learning rates of "
        f"{', '.join(f'{rate:g}' for rate in arguments.rates)}, chosen on seed {TUNING_SEED}; torch "
        f"{torch.__version__}, {arguments.threads} thread(s) of a CPU. Share of answers that are right word for "
        "word, mean and range over seeds; behind it the mean with another row's picture. Text: rise of the loss "
        "without pictures, in nats.",
        "",
        "| method | parameters | rate | " + " | ".join(tests) + " | text | training, processor seconds |",
        "| --- | ---: | ---: |" + " ---: |" * (len(tests) + 2),
    ]
    for name, runs in results.items():
        cells = [name, f"{runs[0]['trainable']:,}", f"{chosen[name]:g}"]
        for test in tests:
            right = [found["right"][test] for found in runs]
            wrong = statistics.mean(found["another's picture"][test] for found in runs)
            cells.append(f"{statistics.mean(right):.3f} [{min(right):.3f}, {max(right):.3f}] / {wrong:.3f}")
        cells.append(f"{statistics.mean(found['text'] for found in runs):+.4f}")
        cells.append(f"{statistics.mean(found['processor_seconds']['training'] for found in runs):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="all if left out")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2])
    parser.add_argument(
        "--rates", type=lambda text: [float(part) for part in text.split(",")], default=[1e-3, 3e-3, 1e-2]
    )
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
