"""The preservation losses of a training run."""

import time
from collections.abc import Iterator, Mapping

import torch
from peft import PeftModel
from torch import Tensor

from excitor.errors import ExcitorError
from excitor.evaluate.task import Subject
from excitor.layer import ExcitorLayer
from excitor.preservation.controller import ForgettingController
from excitor.preservation.losses import gate_size, kl_to_base, recorded_keys, relative_size
from excitor.preservation.replay import ReplayText
from excitor.preservation.weights import Weights


class Preservation:
    """Computes the losses whose weight is not 0, for a PEFT model of any method.

    The base is the same model with its adapters off. A pass over replay text costs one forward and backward of the
    adapted model, and one forward of the base without gradients where a loss compares with it.

    Example::

        for loss in preservation.losses(inputs, step):
            loss.backward()  # before the next is computed: no two graphs are held at a time

    Args:
        model: The adapted model.
        weights: Of the losses.
        replay: Text for the losses that need it.
        replay_batch_size: Documents in a forward pass.
        replay_every: Replay in every n-th optimizer step, with n times the weight.
        controller: Sets the weight of the KL from what it is told, in place of ``weights.kl``.
        seed: Of the choice of documents.
        process: Number of this process: each has documents of its own.

    Raises:
        ExcitorError: A loss has no meaning for the model's method, or has no text.
    """

    def __init__(
        self,
        model: PeftModel,
        weights: Weights,
        replay: ReplayText | None = None,
        *,
        replay_batch_size: int = 8,
        replay_every: int = 1,
        controller: ForgettingController | None = None,
        seed: int = 0,
        process: int = 0,
    ) -> None:
        is_excitor = any(isinstance(module, ExcitorLayer) for module in model.modules())
        if weights.for_excitor_only and not is_excitor:
            raise ExcitorError(
                f"{' and '.join(weights.for_excitor_only)} can be a loss for Excitor only, not for {model.peft_type}: "
                "set its weight to 0; kl and hidden_drift work with every method."
            )
        if weights.on_replay and replay is None:
            raise ExcitorError("kl, key_drift and hidden_drift are losses on replay text: give some.")
        self.model, self.weights, self.replay, self.controller = model, weights, replay, controller
        self.replay_batch_size, self.replay_every = replay_batch_size, replay_every
        self.seconds = 0.0
        self._seed, self._place = (seed, process), (-1, 0)
        self._seen: dict[str, list[Tensor]] = {}

    def losses(self, inputs: Mapping[str, Tensor], step: int) -> Iterator[Tensor]:
        """The weighted losses of one forward pass, those that share a graph as one.

        Args:
            inputs: The batch of instructions: ``input_ids`` and ``labels`` (-100 where a token is not supervised),
                ``(B, T)``; ``attention_mask`` where there is padding, ``position_ids`` where rows are packed.
            step: Optimizer steps done so far.

        Yields:
            Scalars with a gradient.
        """
        started = _now()
        self._place = (step, self._place[1] + 1 if self._place[0] == step else 0)
        if self.replay is not None and self.weights.on_replay and step % self.replay_every == 0:
            yield self.replay_every * self._weighted(self._on_replay(self.replay))
        if self.weights.prompt_kl:
            yield self._weighted({"prompt_kl": self._on_prompts(inputs)})
        if self.weights.gate:
            yield self._weighted({"gate": gate_size(self.model)})
        self.seconds += _now() - started

    def take_means(self) -> dict[str, float]:
        """Mean of each loss, without its weight, since the last call; and ``kl_weight`` where it is controlled."""
        means = {name: torch.stack(values).mean().item() for name, values in self._seen.items()}
        self._seen.clear()
        return means | ({"kl_weight": self.controller.weight} if self.controller else {})

    def take_seconds(self) -> float:
        """Time spent on these losses, backward passes included, since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def _weighted(self, losses: dict[str, Tensor]) -> Tensor:
        for name, loss in losses.items():
            self._seen.setdefault(name, []).append(loss.detach())
        weights = {name: getattr(self.weights, name) for name in losses}
        if self.controller is not None and "kl" in losses:
            self.controller.observe(losses["kl"].detach())
            weights["kl"] = self.controller.weight
        return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()

    def _on_replay(self, replay: ReplayText) -> dict[str, Tensor]:
        ids, mask = replay.batch(self.replay_batch_size, (*self._seed, *self._place))
        inputs = {"input_ids": ids.to(self.model.device), "attention_mask": mask.to(self.model.device)}
        tokens = inputs["attention_mask"].bool()
        losses: dict[str, Tensor] = {}
        states = bool(self.weights.hidden_drift)
        if self.weights.key_drift:
            with recorded_keys(self.model) as (plain, excited):
                own = self._forward(inputs, states)
            terms = [after - before for before, after in zip(plain, excited, strict=True)]
            losses["key_drift"] = relative_size(terms, plain, tokens)
        else:
            own = self._forward(inputs, states)
        if self.weights.kl or states:
            with Subject("base", self.model).active():
                base = self._forward(inputs, states)
            if self.weights.kl:
                predicting = tokens[:, 1:]
                losses["kl"] = kl_to_base(base.logits[:, :-1], own.logits[:, :-1], predicting)
            if states:
                references = base.hidden_states[1:]  # the first are the embeddings
                changes = [after - before for before, after in zip(references, own.hidden_states[1:], strict=True)]
                losses["hidden_drift"] = relative_size(changes, references, tokens)
        return losses

    def _on_prompts(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """KL where the next token is part of a prompt, not of an answer, of padding or of another packed example."""
        wanted = inputs["labels"][:, 1:] == -100
        if "attention_mask" in inputs:
            wanted &= inputs["attention_mask"][:, 1:].bool()
        if "position_ids" in inputs:
            wanted &= inputs["position_ids"][:, 1:] != 0
        names = ("input_ids", "attention_mask", "position_ids", "pixel_values", "image_features", "num_images")
        inputs = {name: inputs[name] for name in names if name in inputs}
        own = self._forward(inputs).logits
        with Subject("base", self.model).active():
            base = self._forward(inputs).logits
        return kl_to_base(base[:, :-1], own[:, :-1], wanted)

    def _forward(self, inputs: Mapping[str, Tensor], states: bool = False):
        """Outputs for the tokens of the input; a prompt method's virtual ones in front of them are left out."""
        out = self.model(**inputs, use_cache=False, output_hidden_states=states)
        length = inputs["input_ids"].shape[1]
        out.logits = out.logits[:, -length:]
        if states:
            out.hidden_states = tuple(state[:, -length:] for state in out.hidden_states)
        return out


def _now() -> float:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()
