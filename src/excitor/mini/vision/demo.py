"""The demonstration that sees: two frozen models that never met are linked, and asked about pictures never shown."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from transformers import AutoImageProcessor, AutoTokenizer

from excitor.config import ExcitorConfig
from excitor.mini.vision import ENCODER_DIR, TEXT_DIR
from excitor.mini.vision.evaluate import answer, blind_share, share_right, shuffled, text_changes
from excitor.mini.vision.figure import draw
from excitor.mini.vision.lessons import TESTS, Lessons, make_lessons
from excitor.mini.vision.train import encode_rows, train_channel
from excitor.mini.vision.words import retain_pages
from excitor.vision.encoder import read_vision_config
from excitor.vision.model import ExcitorForConditionalGeneration


VISION_STEPS = 1000
RETAIN_PAGES = 200
SHOWN = 8  # pictures in the figure, of each of its tests
FIGURE_TESTS = ("captions unseen", "questions unseen", "digits")


def run_vision_demo(
    console: Console | None = None, seed: int = 0, steps: int = VISION_STEPS, out: Path = Path("runs/demo-vision")
) -> dict[str, Any]:
    """Train the link on captions, questions and digits, and test it on combinations and pictures never shown.

    Args:
        console: Where to print; the terminal when not given.
        seed: Decides which combinations are never shown, the drawings, and the order of training.
        steps: Optimizer steps of 32 rows.
        out: Folder for ``adapter/`` (for ``ExcitorForConditionalGeneration.from_pretrained``), ``demo.json`` and
            ``demo.png``.

    Returns:
        What ``demo.json`` holds: ``seed``, ``steps``, ``parameters`` (trainable, of the two models), by test its
        ``accuracy`` (``looking``, ``wrong picture``, ``no picture``, and ``blind``: the best that answers without
        looking could give), ``text`` (what changed on text without pictures), ``loss`` of every step and ``seconds``.
    """
    console = console or Console()
    started = time.perf_counter()
    torch.manual_seed(seed)
    lessons = make_lessons(seed)
    model = link()
    tokenizer, image_processor = (
        AutoTokenizer.from_pretrained(TEXT_DIR),
        AutoImageProcessor.from_pretrained(ENCODER_DIR),
    )
    parts = {name: _count(part, False) for name, part in model.named_children()}
    console.print(
        f"A LLaMA of {parts['language_model']:,} parameters that has read text alone, and a vision encoder of "
        f"{parts['vision_model']:,} that has seen pictures alone. Both stay as they are."
    )
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("training", total=steps)
        losses = []
        for loss in train_channel(model, tokenizer, lessons, image_processor, steps=steps, seed=seed):
            losses.append(loss)
            progress.update(bar, advance=1, description=f"training, loss {loss:.3f}")
    trained = time.perf_counter()
    accuracy, replies = examine(model, tokenizer, image_processor, lessons)
    model.save_pretrained(out / "adapter")
    result = {
        "seed": seed,
        "steps": steps,
        "parameters": parts | {"trainable": _count(model, True)},
        "accuracy": accuracy,
        "text": text_changes(model, tokenizer, retain_pages(RETAIN_PAGES)),
        "loss": losses,
        "seconds": {"training": trained - started, "all": time.perf_counter() - started},
    }
    (out / "demo.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(
        {TESTS[name]: (lessons.tests[name][:SHOWN], replies[name][:SHOWN]) for name in FIGURE_TESTS}, out / "demo.png"
    )
    console.print(results_table(result))
    console.print(f"{result['seconds']['all']:.0f} seconds, all included. Pictures and answers: {out / 'demo.png'}")
    return result


def adapter_config() -> ExcitorConfig:
    """Visual prompts alone: without a picture, nothing is added to any key."""
    width = read_vision_config(str(ENCODER_DIR)).hidden_size
    return ExcitorConfig(num_prompts=0, num_local_prompts=0, vision_width=width, task_type="CAUSAL_LM")


def link() -> ExcitorForConditionalGeneration:
    """The two embedded models in fp32 with a fresh adapter between them."""
    return ExcitorForConditionalGeneration.from_frozen(
        str(TEXT_DIR),
        str(ENCODER_DIR),
        adapter_config(),
        dtype=torch.float32,
        vision_kwargs={"dtype": torch.float32},
    )


def examine(
    model: Any, tokenizer: Any, image_processor: Any, lessons: Lessons
) -> tuple[dict[str, dict[str, float]], dict[str, list[str]]]:
    """Accuracies by test and by what is looked at, and the replies that were given looking."""
    accuracy, replies = {}, {}
    for name, asked in lessons.tests.items():
        rows = encode_rows(model, image_processor, asked)
        replies[name] = answer(model, tokenizer, rows)
        accuracy[name] = {
            "looking": share_right(asked, replies[name]),
            "wrong picture": share_right(asked, answer(model, tokenizer, shuffled(rows))),
            "no picture": share_right(asked, answer(model, tokenizer, rows, look=False)),
            "blind": blind_share(asked),
        }
    return accuracy, replies


def results_table(result: dict[str, Any]) -> Table:
    """What is answered about pictures, and what became of text without them."""
    view = Table("share right, by the picture looked at", box=SIMPLE)
    for column in ("looking", "other", "none", "guess"):
        view.add_column(column, justify="right")
    for name, title in TESTS.items():
        view.add_row(title, *(f"{share:.3f}" for share in result["accuracy"][name].values()))
    view.add_section()
    changes, parameters = result["text"], result["parameters"]
    view.add_row("text alone: loss, change in nats", f"{changes['loss']:+.4f}")
    view.add_row("text alone: largest change of a logit", f"{changes['logits']:g}")
    view.add_row("trainable parameters", f"{parameters['trainable']:,}")
    return view


def _count(part: torch.nn.Module, trained: bool) -> int:
    return sum(parameter.numel() for parameter in part.parameters() if parameter.requires_grad == trained)
