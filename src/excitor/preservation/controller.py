"""A weight of the KL that ends with the forgetting one accepts."""

import math
from typing import Any, cast

import torch
from accelerate.utils import reduce
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


# Text the run never replays is forgotten a little more than the text that it does.
MARGIN = 0.7
MEMORY = 0.8
RATE = 0.3
SLOWER = 0.1
RANGE = 100.0


class ForgettingController(TrainerCallback, ExportableState):
    """Adapts the weight of the KL while training runs, by dual ascent.

    Training minimises the loss on instructions subject to ``forgetting <= bar``. The weight of the KL is that
    problem's multiplier: it rises while the constraint is broken and falls while there is room. It moves in
    logarithms, so that it stays positive and finds its scale within some ten steps::

        weight <- weight * exp(RATE * clip(estimate / target - 1, -SLOWER, 1)),    target = MARGIN * bar

    It falls more slowly than it rises: at the start nothing is forgotten yet whatever the weight is, and a broken bar
    is worse than one that was not used up.

    The estimate is KL(base || adapted) on replay text, smoothed exponentially over the steps that replay (it keeps
    ``MEMORY``). For text of the base's own this is the rise of the cross-entropy that ``forgetting`` is defined as, in
    expectation; it has far less noise, and cannot be negative. What is forgotten of other text can be more or less, so
    the report says what was measured in the end.

    The state is saved with each checkpoint and taken up when a run is resumed.

    Args:
        bar: Forgetting that is accepted, nats per token.
        weight: Of the KL at the start; it never leaves a hundredth of this to a hundred times this: beyond, clipped
            gradients would be all KL, and nothing would be learned.
    """

    def __init__(self, bar: float, weight: float = 1.0) -> None:
        self.bar, self.start, self.weight = bar, weight, weight
        self.estimate = 0.0
        self._trust = 0.0  # share of the estimate that is not its start of 0
        self._observed: list[Tensor] = []

    def observe(self, kl: Tensor) -> None:
        """Take the KL of one replay batch, a scalar without gradient."""
        self._observed.append(kl)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Move the weight, in all processes alike."""
        if not self._observed:
            return
        kl = cast(Tensor, reduce(torch.stack(self._observed).mean(), "mean")).item()
        self._observed.clear()
        self.estimate = MEMORY * self.estimate + (1 - MEMORY) * kl
        self._trust = MEMORY * self._trust + (1 - MEMORY)
        excess = self.estimate / self._trust / (MARGIN * self.bar) - 1
        moved = self.weight * math.exp(RATE * min(max(excess, -SLOWER), 1.0))
        self.weight = min(max(moved, self.start / RANGE), self.start * RANGE)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Take up where a resumed run was."""
        saved = cast(dict[str, Any], state.stateful_callbacks).get(type(self).__name__)
        if isinstance(saved, dict):
            for name, value in saved["attributes"].items():
                setattr(self, name, value)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        names = ("weight", "estimate", "_trust")
        return {
            "args": {"bar": self.bar, "weight": self.start},
            "attributes": {name: getattr(self, name) for name in names},
        }
