"""An adapter at other strengths than it was trained at, where a factor of its effect exists."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer

from excitor.compare.watch import learned_and_forgotten
from excitor.evaluate.report import measure


FACTORS = ("excitor_strength", "scaling")  # by adapter name: of Excitor's layers; of LoRA's and others'


def strength_curve(
    model: PeftModel, strengths: Sequence[float], held_out: Dataset, retain: Dataset, *, batch_size: int
) -> list[dict[str, float]] | None:
    """What an adapter has learned and forgotten at each strength, without training again.

    A factor counts as a strength where it leads to the base: at 0 the model has to give what it gives with the adapter
    off. So methods with a magnitude of their own beside the factor (DoRA) have none.

    Args:
        model: With its adapter; it is left as it was.
        strengths: Factors, 1 being as trained.
        held_out: Encoded rows that are not trained on.
        retain: Encoded text.
        batch_size: Rows in a batch.

    Returns:
        ``strength`` and what :func:`excitor.compare.watch.learned_and_forgotten` gives; None for a method without one.
    """
    if not _leads_to_base(model, held_out):
        return None
    points = []
    for strength in strengths:
        with scaled(model, strength):
            report = measure(model, held_out, retain, retain_source="", batch_size=batch_size)
        points.append({"strength": strength} | learned_and_forgotten(report))
    return points


@contextmanager
def scaled(model: PeftModel, strength: float) -> Iterator[None]:
    """Within it every adapted layer adds its effect times ``strength``."""
    before = [(factors, dict(factors)) for factors in _factors(model)]
    try:
        for factors, values in before:
            factors.update({name: strength * value for name, value in values.items()})
        yield
    finally:
        for factors, values in before:
            factors.update(values)


def _factors(model: PeftModel) -> list[dict[str, Any]]:
    """The factors of every adapted layer; none at all where a layer has none."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    found = [next((getattr(layer, name) for name in FACTORS if hasattr(layer, name)), None) for layer in layers]
    return [factors for factors in found if factors is not None] if all(found) else []


@torch.no_grad()
def _leads_to_base(model: PeftModel, rows: Dataset) -> bool:
    if not _factors(model):
        return False
    tokens = torch.tensor([rows["input_ids"][0]], device=model.device)
    with scaled(model, 0.0):
        off = model(input_ids=tokens, use_cache=False).logits
    with model.disable_adapter():
        base = model(input_ids=tokens, use_cache=False).logits
    return torch.allclose(off, base)
