"""The demonstration: teach the embedded base to follow instructions, and measure what it learned and what it kept."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from excitor.checkpoint import load_adapter
from excitor.mini import BASE_DIR
from excitor.mini.evaluate import complete, examine
from excitor.mini.lessons import Lessons, make_lessons, write_lessons
from excitor.mini.pages import QUESTION
from excitor.mini.world import make_world
from excitor.train.arguments import TrainArguments
from excitor.train.run import train


STEPS = 2000
BATCH_SIZE = 16
LEARNING_RATE = 1.5e-2
PROMPT_INIT_STD = 0.3  # learns and keeps more than 1 on this base, docs/world.md
RETAIN_PAGES = 200

# What is measured, as the table names it.
ROWS = {
    "seen facts": "instructions: facts, seen places",
    "unseen facts": "instructions: facts, unseen places",
    "seen lists": "instructions: skills, seen lists",
    "unseen lists": "instructions: skills, unseen lists",
    "facts": "knowledge: facts recalled",
    "skills": "knowledge: skills kept",
}


def run_demo(
    console: Console | None = None, seed: int = 0, steps: int = STEPS, out: Path = Path("runs/demo")
) -> dict[str, Any]:
    """Fine-tune Excitor on instructions about half of the invented world and test it on both halves.

    Args:
        console: Where to print; the terminal when not given.
        seed: Decides which half is taught and the order of training.
        steps: Optimizer steps of 16 instructions.
        out: Folder for ``data/`` (the instructions), ``adapter/`` (as ``excitor train`` leaves it), ``demo.json``
            and ``demo.png``.

    Returns:
        What ``demo.json`` holds: ``accuracy`` (of ``base`` and ``adapter``, by the names of the tests and probes),
        ``forgotten`` and ``parameters`` as in the report of :func:`excitor.train.run.train`, ``answers``, ``seconds``.
    """
    console = console or Console()
    started = time.perf_counter()
    world = make_world()
    lessons = make_lessons(world, seed)
    write_lessons(world, lessons, out / "data", RETAIN_PAGES)
    report = train(
        TrainArguments(
            model=str(BASE_DIR),
            data=[str(out / "data" / "train.jsonl")],
            retain=[str(out / "data" / "retain.jsonl")],
            retain_documents=RETAIN_PAGES,
            out=str(out / "adapter"),
            overwrite=True,
            steps=steps,
            save_steps=steps,
            batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            prompt_init_std=PROMPT_INIT_STD,
            seed=seed,
        ),
        console,
    )

    model, tokenizer = load_adapter(str(out / "adapter"), dtype=torch.float32)
    asked = _examples(lessons)
    with model.disable_adapter():
        before, base_replies = examine(model, tokenizer, lessons), complete(model, tokenizer, asked)
    after, replies = examine(model, tokenizer, lessons), complete(model, tokenizer, asked)
    result = {
        "seed": seed,
        "steps": steps,
        "accuracy": {"base": before, "adapter": after},
        "forgotten": report["forgotten"],
        "parameters": report["parameters"],
        "answers": [
            {"instruction": text.split("\n")[0].removeprefix("Ask: "), "base": base_reply, "adapter": reply}
            for text, base_reply, reply in zip(asked, base_replies, replies, strict=True)
        ],
        "seconds": time.perf_counter() - started,
    }
    (out / "demo.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(result, out / "demo.png")
    console.print(answers_table(result), results_table(result))
    console.print(f"The same adapter answers you: excitor chat --adapter {out / 'adapter'}")
    return result


def answers_table(result: dict[str, Any]) -> Table:
    """A few instructions about what was never taught, answered by the base and by the adapter."""
    view = Table("instruction, about unseen places and lists", "base", "adapter", box=SIMPLE)
    for answer in result["answers"]:
        view.add_row(answer["instruction"], answer["base"], answer["adapter"])
    return view


def results_table(result: dict[str, Any]) -> Table:
    """What was learned and what was kept."""
    view = Table("share right, greedy, exact match", box=SIMPLE)
    view.add_column("base", justify="right")
    view.add_column("adapter", justify="right")
    before, after = result["accuracy"]["base"], result["accuracy"]["adapter"]
    for name, title in ROWS.items():
        view.add_row(
            title, f"{before[name]:.3f}", f"{after[name]:.3f}", end_section=name in ("unseen lists", "skills")
        )
    forgotten, parameters = result["forgotten"], result["parameters"]
    view.add_row("forgetting on pages, nats per token", "", f"{forgotten['change']:+.4f}")
    view.add_row("trainable parameters", "", f"{parameters['trainable']:,} ({parameters['share']:.2%})")
    view.add_row("seconds, all included", "", f"{result['seconds']:.0f}")
    return view


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the table's accuracies, base against adapter, as bars."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for shift, (name, color) in enumerate((("base", "0.7"), ("adapter", "C0"))):
        shares = [result["accuracy"][name][row] for row in ROWS]
        bars = axes.barh([index + 0.4 * shift for index in range(len(ROWS))], shares, 0.4, label=name, color=color)
        axes.bar_label(bars, fmt="%.2f", padding=2)
    axes.set_yticks([index + 0.2 for index in range(len(ROWS))], list(ROWS.values()))
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.1), xlabel="share right")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=2, frameon=False)
    figure.savefig(path, dpi=120)


def _examples(lessons: Lessons) -> list[str]:
    chosen = lessons.tests["unseen facts"][:12:4] + lessons.tests["unseen lists"][:6:2]
    return [QUESTION.format(question.text) for question in chosen]
