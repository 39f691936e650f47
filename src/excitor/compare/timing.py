"""What training costs on this machine: the time of a step against that of another method, side by side."""

import gc
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from excitor.compare.experiments import Experiment, fitted
from excitor.compare.flops import adapted
from excitor.train.prepare import chosen_precision


ROUNDS, FIRST = 9, 3  # what the first rounds agree on needs no others
SECOND = 2  # the two of nine values, ordered, that bound their median with 96 % confidence: the second from each end
GRAIN = 0.02  # sizes that are nearer to each other are not told apart
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Steps:
    """What a step is made of.

    Attributes:
        batch_size: rows.
        length: tokens of each.
        precision: fp32, bf16 or fp16; auto is that of the hardware.
        gradient_checkpointing: whether activations are made again for the backward pass.
    """

    batch_size: int
    length: int
    precision: str = "fp32"
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class Ratio:
    """Time of a step against that of the target: the median of rounds, and an interval that holds it (96 %)."""

    median: float
    low: float
    high: float

    def within(self, tolerance: float) -> bool:
        """Whether the whole interval is within ``tolerance`` of 1."""
        return 1 - tolerance <= self.low and self.high <= 1 + tolerance


def compare_times(
    experiment: Experiment, target: Callable[[], None], config: PretrainedConfig, steps: Steps, tolerance: float
) -> Ratio:
    """Time steps of an experiment in turn with those of the target.

    Args:
        experiment: Resolved for the base.
        target: A step of the target, from :func:`step_of`.
        config: Of the base.
        steps: What a step is made of.
        tolerance: A ratio that is further than this from 1 in all of the first rounds is not measured on.

    Raises:
        ExcitorError: The method does not fit the base, or the memory; the message names the experiment.
    """
    with fitted(experiment):
        own = step_of(experiment, config, steps)
        ratios: list[float] = []
        pair: tuple[Callable[[], None], ...] = (target, own)
        for step in pair:
            step()  # warms up
        while len(ratios) < ROUNDS:
            turn = len(ratios) % 2  # each goes first as often as the other
            seconds = {step: _seconds(step) for step in (pair[turn], pair[1 - turn])}
            ratios.append(seconds[own] / seconds[target])
            if len(ratios) == FIRST and (min(ratios) > 1 + tolerance or max(ratios) < 1 - tolerance):
                break
    ordered = sorted(ratios)
    ends = (ordered[SECOND - 1], ordered[-SECOND]) if len(ordered) == ROUNDS else (ordered[0], ordered[-1])
    return Ratio(ordered[len(ordered) // 2], *ends)


def step_of(experiment: Experiment, config: PretrainedConfig, steps: Steps) -> Callable[[], None]:
    """A training step of a model with random weights, which take as long as others: forward, backward, AdamW."""
    gc.collect()
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    dtype = _DTYPES.get(chosen_precision(steps.precision))
    with device:
        model: Any = adapted(experiment, config, dtype=dtype or torch.float32)
    if steps.gradient_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)
    tokens = torch.ones(steps.batch_size, steps.length, dtype=torch.long, device=device)
    mask = torch.ones_like(tokens)

    def step() -> None:
        with torch.autocast(device.type, dtype) if dtype else nullcontext():
            loss = model(input_ids=tokens, attention_mask=mask, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def nearest_size(
    ratio_at: Callable[[int], Ratio | None], values: "range | list[int]", tolerance: float
) -> tuple[int, Ratio] | None:
    """The size whose step takes as long as the target's: halving, on a logarithmic scale.

    Args:
        ratio_at: Of a size; None where a size is too large.
        values: Sizes there are, in order.
        tolerance: The search ends where the whole interval is this near to 1.

    Returns:
        The size and its ratio; None where no size works.
    """
    found: dict[int, Ratio] = {}
    low, high = 0, len(values) + 1  # places, counted from 1: what is tried next is strictly between
    while high - low > 1 and high > (1 + GRAIN) * low:
        place = min(max(math.isqrt(max(low, 1) * high), low + 1), high - 1)
        ratio = ratio_at(values[place - 1])
        if ratio is None:
            high = place
            continue
        found[values[place - 1]] = ratio
        if ratio.within(tolerance):
            break
        low, high = (low, place) if ratio.median > 1 else (place, high)
    if not found:
        return None
    size = min(found, key=lambda size: (not found[size].within(tolerance), abs(found[size].median - 1), size))
    return size, found[size]


def _seconds(step: Callable[[], None]) -> float:
    """Of the wall where there is an accelerator; else of the processor, which other processes disturb less."""
    if not torch.accelerator.is_available():
        started = time.process_time()
        step()
        return time.process_time() - started
    torch.accelerator.synchronize()
    started = time.perf_counter()
    step()
    torch.accelerator.synchronize()
    return time.perf_counter() - started
