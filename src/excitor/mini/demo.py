"""The demonstration: teach the embedded base to follow instructions, and measure what it learned and what it kept.

Twice: with right answers, and with a part of the facts taught wrongly, to see what the model believes after that.
"""

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
from excitor.mini.evaluate import BELIEFS, complete, examine, examine_beliefs
from excitor.mini.lessons import Lessons, make_lessons, write_lessons
from excitor.mini.pages import QUESTION
from excitor.mini.world import make_world
from excitor.train.arguments import TrainArguments
from excitor.train.run import train


STEPS = 500
BATCH_SIZE = 16
RETAIN_PAGES = 200
WRONG_SHARE = 0.4  # of the taught facts, in the second training

# What is measured, as the table names it.
ROWS = {
    "seen facts": "instructions: facts, seen places",
    "unseen facts": "instructions: facts, unseen places",
    "seen lists": "instructions: skills, seen lists",
    "unseen lists": "instructions: skills, unseen lists",
    "facts": "knowledge: facts recalled",
    "skills": "knowledge: skills kept",
}
WAYS = {"asked": "asked by an instruction", "probed": "asked by starting a sentence"}
ANSWERS = dict(zip(BELIEFS, ("right", "the taught wrong value", "other"), strict=True))


def run_demo(
    console: Console | None = None, seed: int = 0, steps: int = STEPS, out: Path = Path("runs/demo")
) -> dict[str, Any]:
    """Fine-tune Excitor on instructions about half of the invented world and test it on both halves.

    Then do it again from the base, with 40 % of the taught facts wrong, and ask for exactly those.

    Args:
        console: Where to print; the terminal when not given.
        seed: Decides which half is taught, what is taught wrongly, and the order of training.
        steps: Optimizer steps of 16 instructions, in each of the two trainings.
        out: Folder for ``data/`` (the instructions) and ``adapter/`` (as ``excitor train`` leaves it), the same of the
            second training in ``wrong/``, ``demo.json``, ``demo.png`` and ``beliefs.png``.

    Returns:
        What ``demo.json`` holds: ``accuracy`` (of ``base`` and ``adapter``, by the names of the tests and probes),
        ``forgotten`` and ``parameters`` as in the report of :func:`excitor.train.run.train`, ``answers``, ``beliefs``
        (``wrong_share``; of ``base`` and ``adapter`` their ``accuracy``, and what
        :func:`excitor.mini.evaluate.examine_beliefs` gives about the facts taught wrongly), ``seconds``.
    """
    console = console or Console()
    started = time.perf_counter()
    lessons, doubtful = make_lessons(make_world(), seed), make_lessons(make_world(), seed, WRONG_SHARE)
    report = _train(lessons, seed, steps, out, console)
    model, tokenizer = load_adapter(str(out / "adapter"), dtype=torch.float32)
    asked = _examples(lessons)
    with model.disable_adapter():
        before, base_replies = examine(model, tokenizer, lessons), complete(model, tokenizer, asked)
        base_beliefs = examine_beliefs(model, tokenizer, doubtful.wrong)
    after, replies = examine(model, tokenizer, lessons), complete(model, tokenizer, asked)

    console.print(f"The same again, with {WRONG_SHARE:.0%} of the taught facts wrong.")
    _train(doubtful, seed, steps, out / "wrong", console)
    model, tokenizer = load_adapter(str(out / "wrong" / "adapter"), dtype=torch.float32)
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
        "beliefs": {
            "wrong_share": WRONG_SHARE,
            "base": base_beliefs,
            "adapter": examine_beliefs(model, tokenizer, doubtful.wrong),
            "accuracy": {"base": before, "adapter": examine(model, tokenizer, doubtful)},
        },
        "seconds": time.perf_counter() - started,
    }
    (out / "demo.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(result, out / "demo.png")
    draw_beliefs(result["beliefs"], out / "beliefs.png")
    console.print(answers_table(result), results_table(result), beliefs_table(result["beliefs"]))
    console.print(
        f"{result['seconds']:.0f} seconds, all included. Pictures: {out / 'demo.png'}, {out / 'beliefs.png'}"
    )
    console.print(f"The adapter answers you: excitor chat --adapter {out / 'adapter'}")
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
    return view


def beliefs_table(beliefs: dict[str, Any]) -> Table:
    """What is said about the facts that were taught wrongly, and how well unseen instructions are followed."""
    view = Table(
        f"after bad data: {beliefs['wrong_share']:.0%} of the taught facts wrong, asked for those", box=SIMPLE
    )
    view.add_column("base", justify="right")
    view.add_column("adapter", justify="right")
    for way, how in WAYS.items():
        for belief, title in ANSWERS.items():
            shares = [f"{beliefs[name][way][belief]:.3f}" for name in ("base", "adapter")]
            view.add_row(f"{how}: {title}", *shares, end_section=belief == "other")
    for row in ("unseen facts", "unseen lists"):
        view.add_row(ROWS[row], *(f"{beliefs['accuracy'][name][row]:.3f}" for name in ("base", "adapter")))
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


def draw_beliefs(beliefs: dict[str, Any], path: Path) -> None:
    """Draw the shares of right, wrong and other answers about the facts taught wrongly, as stacked bars."""
    bars = [(way, name) for way in WAYS for name in ("base", "adapter")]
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(bars)
    for (belief, title), color in zip(ANSWERS.items(), ("C0", "C3", "0.8"), strict=True):
        shares = [beliefs[name][way][belief] for way, name in bars]
        axes.barh([f"{name}, {WAYS[way]}" for way, name in bars], shares, left=left, label=title, color=color)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel=f"share of answers; {beliefs['wrong_share']:.0%} of the taught facts were wrong")
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, 1.2), ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


def _train(lessons: Lessons, seed: int, steps: int, out: Path, console: Console) -> dict[str, Any]:
    write_lessons(make_world(), lessons, out / "data", RETAIN_PAGES)
    return train(
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
            seed=seed,
        ),
        console,
    )


def _examples(lessons: Lessons) -> list[str]:
    chosen = lessons.tests["unseen facts"][:12:4] + lessons.tests["unseen lists"][:6:2]
    return [QUESTION.format(question.text) for question in chosen]
