"""What was learned and what was forgotten, as one report."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor

from excitor.errors import ExcitorError
from excitor.evaluate.likelihood import Scores, compare
from excitor.evaluate.markdown import markdown_table as render
from excitor.evaluate.task import Subject


def measure(
    model: PeftModel,
    learn: Dataset,
    retain: Dataset,
    *,
    retain_source: str,
    batch_size: int = 16,
    inputs: Callable[[Sequence[int]], Mapping[str, Tensor]] = lambda rows: {},
) -> dict[str, Any]:
    """Measure an adapter against its base: the answers it should have learned, the text it should not have touched.

    Losses are means over all supervised tokens, in nats per token.

    Args:
        model: A PEFT model with an active adapter of any method.
        learn: Held-out instruction rows: ``input_ids`` and ``labels`` (-100 on everything but the answers).
        retain: Text that is not instructions: ``input_ids`` and ``labels``.
        retain_source: Where that text comes from, as shown to readers.
        batch_size: Rows in a batch, at most.
        inputs: What belongs to rows of ``learn`` beside their tokens; see :func:`excitor.evaluate.likelihood.compare`.

    Returns:
        A dictionary that JSON can hold: ``learned``, ``forgotten``, ``parameters``, ``seconds``.

    Raises:
        ExcitorError: A data set has no supervised token, or logits are not finite.
    """
    started = time.perf_counter()
    trainable, total = model.get_nb_trainable_parameters()
    subjects = [Subject("base", model), Subject("adapter", model, model.active_adapters[0])]
    learned = compare(subjects, learn, batch_size, inputs=inputs)
    forgotten = compare(subjects, retain, batch_size)
    return {
        "learned": {
            **_losses(learned, "the held-out rows"),
            "rows": len(learn),
        },
        "forgotten": {
            **_losses(forgotten, "the retention text"),
            "kl": _mean(forgotten["adapter"].kl),
            "flipped": _mean(forgotten["adapter"].flipped),
            "documents": len(retain),
            "source": retain_source,
        },
        "parameters": {"trainable": trainable, "total": total, "share": trainable / total},
        "seconds": time.perf_counter() - started,
    }


def table(report: dict[str, Any]) -> Table:
    """The report of :func:`measure` for a terminal."""
    view = Table(title="Loss in nats per token", title_justify="left", box=SIMPLE)
    for heading in _HEADINGS:
        view.add_column(heading, justify="left" if heading == "" else "right", overflow="fold")
    for row in _rows(report):
        view.add_row(*row)
    return view


def markdown_table(report: dict[str, Any]) -> str:
    """The report of :func:`measure` as a Markdown table."""
    return render(_HEADINGS, _rows(report))


_HEADINGS = ("", "base", "adapter", "change", "KL", "flipped", "tokens")


def _rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    learned, forgotten = report["learned"], report["forgotten"]
    return [
        (f"learned: {learned['rows']:,} held-out answers", *_cells(learned), "", "", f"{learned['tokens']:,}"),
        (
            f"forgotten: {forgotten['source']}",
            *_cells(forgotten),
            f"{forgotten['kl']:.4f}",
            f"{forgotten['flipped']:.1%}",
            f"{forgotten['tokens']:,}",
        ),
    ]


def _cells(part: dict[str, Any]) -> tuple[str, str, str]:
    return f"{part['base']:.4f}", f"{part['adapter']:.4f}", f"{part['change']:+.4f}"


def _losses(scores: dict[str, Scores], name: str) -> dict[str, Any]:
    tokens = sum(len(document) for document in scores["base"].loss)
    if not tokens:
        raise ExcitorError(f"No token can be scored in {name}: every row is empty or has no supervised token.")
    before, after = _mean(scores["base"].loss), _mean(scores["adapter"].loss)
    return {"base": before, "adapter": after, "change": after - before, "tokens": tokens}


def _mean(documents: list[Tensor]) -> float:
    return torch.cat(documents).double().mean().item()
