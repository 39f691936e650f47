"""Log-likelihoods of the four letters, with the few-shot examples that prompts share computed once."""

import copy
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from excitor.evaluate.mmlu.prompts import Letters, Prompt, count_shared
from excitor.evaluate.parallel import merge, share


# Layers that hold keys and values only.
SHAREABLE = (DynamicLayer, DynamicSlidingWindowLayer)


class SharedPrefix(Cache):
    """Keys and values of one text, read by every row of every batch and never written to.

    What a batch adds is handed to its attention and forgotten, so the prefix is in memory once, whatever the batch.
    """

    def __init__(self, cache: DynamicCache):
        super().__init__(layers=cache.layers)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, G, prefix + T, head]`` of the prefix and the batch's own ``[B, G, T, head]``."""
        layer = cast(Any, copy.copy(self.layers[layer_idx]))
        layer.keys = layer.keys.expand(len(key_states), -1, -1, -1)
        layer.values = layer.values.expand(len(value_states), -1, -1, -1)
        return layer.update(key_states, value_states, *args, **kwargs)


def score_letters(
    model: nn.Module,
    prompts: Sequence[Prompt],
    letters: Letters,
    batch_size: int = 16,
    advance: Callable[[int], object] = lambda prompts: None,
) -> Tensor:
    """Log-likelihoods of the letters after each prompt.

    Prompts with equally many examples are run together, sorted by length. The tokens with which all of them start are
    read once; the rest continues from their keys and values. Several processes share the batches.

    Args:
        model: A causal language model of transformers, with or without PEFT, in evaluation mode.
        prompts: Those of one topic.
        letters: The tokens to score.
        batch_size: Prompts in a batch, at most.
        advance: Told the number of prompts in each finished batch of this process.

    Returns:
        fp32 ``[prompts, 4]`` on the CPU.
    """
    found: dict[int, Tensor] = {}
    order = sorted(range(len(prompts)), key=lambda place: (*_kind(prompts[place]), -len(prompts[place].ids)))
    for _, group in groupby(order, key=lambda place: _kind(prompts[place])):
        places = list(group)
        batches = share([places[start : start + batch_size] for start in range(0, len(places), batch_size)])
        if not batches:
            continue
        shared = count_shared([prompts[place].ids for place in places])
        prefix = _read_prefix(model, prompts[places[0]].ids[:shared]) if len(places) > 1 else None
        skip = 0 if prefix is None else prefix.get_seq_length()
        for batch in batches:
            rows = [prompts[place].ids[skip:] for place in batch]
            found |= zip(batch, _score(model, rows, prefix, skip, letters), strict=True)
            advance(len(rows))
    found = merge(found)
    return torch.stack([found[place] for place in range(len(prompts))])


def _kind(prompt: Prompt) -> tuple[int, bool]:
    """What prompts must have in common to start alike."""
    return prompt.shots, prompt.cut > 0


def _read_prefix(model: nn.Module, ids: list[int]) -> SharedPrefix | None:
    """The prefix's keys and values; None where a model keeps other things, so that it must read every prompt whole."""
    if not ids or (isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning):
        return None
    tokens = torch.tensor([ids], device=next(model.parameters()).device)
    cache = getattr(model(input_ids=tokens, use_cache=True, logits_to_keep=1), "past_key_values", None)
    if type(cache) is DynamicCache and all(type(layer) in SHAREABLE for layer in cache.layers):
        return SharedPrefix(cache)
    return None


def _score(
    model: nn.Module, rows: list[list[int]], prefix: SharedPrefix | None, skip: int, letters: Letters
) -> Tensor:
    """Log-likelihoods ``[B, 4]``. Rows are padded on the right: a causal model then needs no care for positions."""
    lengths = torch.tensor([len(row) for row in rows])
    stem = letters.stem
    width = int(lengths.max()) + len(stem)
    device = next(model.parameters()).device
    tokens = torch.tensor([row + [*stem] + [0] * (width - len(row) - len(stem)) for row in rows], device=device)
    mask = torch.arange(skip + width) < (skip + lengths + len(stem))[:, None]
    keep = width - int(lengths.min()) + 1  # from the last token of the shortest prompt on
    cache = {"use_cache": False} if prefix is None else {"use_cache": True, "past_key_values": prefix}
    logits = model(input_ids=tokens, attention_mask=mask.long().to(device), logits_to_keep=keep, **cache).logits
    # positions [B, stem + 1]: a prompt's last token and the stem, where the letters' tokens are predicted
    positions = (lengths - lengths.min())[:, None] + torch.arange(len(stem) + 1)
    rows_at = torch.arange(len(rows))[:, None]
    log_probs = logits[rows_at.to(device), positions.to(device)].float().log_softmax(dim=-1).cpu()
    return torch.stack(
        [
            torch.stack([log_probs[:, step, token] for step, token in enumerate(letter)]).sum(dim=0)
            for letter in letters.tokens
        ],
        dim=1,
    )
