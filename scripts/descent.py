"""The gradient step that all scripts of pre-training take: two optimizers and a schedule."""

from typing import Any

import torch
from torch import Tensor, nn


WARMUP_STEPS = 50
MATRIX_RATE, REST_RATE = 0.02, 0.004


class Descent:
    """Muon for the matrices of the blocks (AdamW alone needs several times the steps), AdamW for the rest.

    Args:
        model: What is trained; its blocks are in a module called ``layers``.
        steps: How many there will be.
        rest_rate: Learning rate of AdamW at full height.
    """

    def __init__(self, model: nn.Module, steps: int, rest_rate: float = REST_RATE) -> None:
        self.parameters = list(model.parameters())
        blocks = [each for name, each in model.named_parameters() if ".layers." in name and each.ndim == 2]
        chosen = set(blocks)
        rest = [each for each in self.parameters if each not in chosen]
        optimizers = [
            torch.optim.Muon(blocks, lr=MATRIX_RATE, weight_decay=0.01),
            torch.optim.AdamW(rest, lr=rest_rate, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(each, lambda step: rate_factor(step, steps)) for each in optimizers
        ]
        self.parts = [*optimizers, *schedules]

    def step(self, loss: Tensor) -> None:
        """Take one step down the gradient of ``loss``, clipped to norm 1."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for part in self.parts:
            part.step()
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> list[dict[str, Any]]:
        """What :meth:`load_state_dict` goes on from."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, saved: list[dict[str, Any]]) -> None:
        """Go on from where :meth:`state_dict` was taken."""
        for part, state in zip(self.parts, saved, strict=True):
            part.load_state_dict(state)


def rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, a long plateau (skills are found suddenly, and at full rate), then linearly down to 0."""
    return min(1.0, (step + 1) / WARMUP_STEPS, (steps - step) / (0.4 * steps))
