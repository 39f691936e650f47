"""What a finished adapter costs: activations kept for the backward pass, and decoding."""

import statistics
import time
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from excitor.diagnostics.saved import saved_tensors
from excitor.evaluate.generation import GREEDY


PROMPT, NEW_TOKENS, REPEATS = 16, 32, 3


def saved_for_backward(model: nn.Module, rows: Dataset, batch_size: int) -> int:
    """Bytes that a training forward pass keeps for its backward pass, see :mod:`excitor.diagnostics.saved`.

    Args:
        model: With its trainable parameters; its state is not changed.
        rows: Encoded; the first batch of them is used.
        batch_size: Rows in it.
    """
    ids = [torch.tensor(row) for row in rows["input_ids"][:batch_size]]
    tokens = nn.utils.rnn.pad_sequence(ids, batch_first=True).to(next(model.parameters()).device)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True).to(tokens.device)
    was_training = model.training
    model.train()
    with saved_tensors(model) as saved:
        loss = model(input_ids=tokens, attention_mask=mask, labels=tokens, use_cache=False).loss
    found = saved.bytes
    del loss, saved
    model.train(was_training)
    return found


def decode_speed(model: Any, tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> float:
    """New tokens a second when one text is continued greedily with the cache; the median of three times.

    Args:
        model: In evaluation mode.
        tokenizer: Its tokenizer.
        rows: Encoded; the first one gives the prompt.
    """
    prompt = torch.tensor([rows["input_ids"][0][:PROMPT]], device=model.device)
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        with torch.no_grad():
            model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                pad_token_id=tokenizer.pad_token_id,
                **GREEDY,
            )
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - started)
    return NEW_TOKENS / statistics.median(seconds[1:])  # the first time warms up
