"""Text from the base model itself: to measure forgetting on, or to replay, where no other text is given."""

from typing import Any, cast

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from excitor.errors import ExcitorError
from excitor.evaluate.task import Subject


def sample_from_base(
    base: Subject,
    tokenizer: PreTrainedTokenizerBase,
    *,
    documents: int,
    length: int,
    seed: int,
    temperature: float = 1.0,
    batch_size: int = 32,
) -> Dataset:
    """Sample documents from the base model.

    The tokens are drawn from the model's plain distribution, at one temperature: ``generate`` would take over the
    checkpoint's own sampling settings (top-k, penalties), and the text would no longer be the base's.

    Args:
        base: The base model.
        tokenizer: Gives the first token: BOS, else EOS.
        documents: Number of documents.
        length: Tokens in a document, at most; it ends earlier after an EOS.
        seed: Of the generator of this function; the global one is left alone.
        temperature: Divides the logits; 1 is the model's own distribution.
        batch_size: Documents sampled side by side.

    Returns:
        Columns ``input_ids`` and ``labels`` (the same tokens; a causal loss never scores the first one).

    Raises:
        ExcitorError: The tokenizer has neither BOS nor EOS.
    """
    eos = cast(int | None, tokenizer.eos_token_id)
    first = eos if tokenizer.bos_token_id is None else cast(int, tokenizer.bos_token_id)
    if first is None:
        raise ExcitorError(
            f"The tokenizer {tokenizer.name_or_path!r} has neither a BOS nor an EOS token, so text sampled from the "
            "base has no token to start with. Give text of your own with --retain FILE, and with --replay FILE where "
            "text is replayed."
        )
    generator = torch.Generator(device=base.model.device).manual_seed(seed)
    texts: list[list[int]] = []
    with base.active() as model:
        while len(texts) < documents:
            count = min(batch_size, documents - len(texts))
            texts += _sample(model, torch.full((count, 1), first), length, eos, temperature, generator)
    return Dataset.from_dict({"input_ids": texts, "labels": texts})


def _sample(
    model: Any, start: torch.Tensor, length: int, eos: int | None, temperature: float, generator: torch.Generator
) -> list[list[int]]:
    tokens = start.to(model.device)
    ended = torch.zeros(len(start), dtype=torch.bool, device=model.device)
    cache = None
    while tokens.shape[1] < length and not ended.all():
        out = model(input_ids=tokens[:, -1:], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        probs = (out.logits[:, -1].float() / temperature).softmax(dim=-1)
        new = torch.multinomial(probs, 1, generator=generator)
        tokens = torch.cat([tokens, new], dim=1)
        ended |= new[:, 0] == eos if eos is not None else False
    texts = tokens.tolist()
    if eos is None:
        return texts
    # A start token may be the EOS itself: only a later one ends the text.
    return [text[: text.index(eos, 1) + 1] if eos in text[1:] else text for text in texts]
