"""What is answered with the right picture, with another row's, and with none; and whether the words are left alone."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from excitor.evaluate.generation import GREEDY
from excitor.mini.vision.lessons import Seen
from excitor.mini.vision.train import Rows


LONGEST = 12  # tokens; no right answer is longer


@torch.no_grad()
def answer(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: Rows, *, look: bool = True, batch_size: int = 128
) -> list[str]:
    """Greedy answers, seeing the pictures unless ``look`` is False."""
    replies: list[str] = []
    for start in range(0, len(rows.rows), batch_size):
        chosen = slice(start, start + batch_size)
        prompts = [row.asked.prompt for row in rows.rows[chosen]]
        batch = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
        pictures = {"image_features": rows.features[chosen]} if look else {}
        tokens = model.generate(**batch, **pictures, **GREEDY, max_new_tokens=LONGEST)
        said = tokens[:, batch.input_ids.shape[1] :]
        replies += [text.strip() for text in tokenizer.batch_decode(said, skip_special_tokens=True)]
    return replies


def share_right(rows: Sequence[Seen], replies: Sequence[str]) -> float:
    """Share of replies that are the answer, word for word."""
    return sum(reply == row.asked.answer for row, reply in zip(rows, replies, strict=True)) / len(rows)


def shuffled(rows: Rows, seed: int = 0) -> Rows:
    """The same questions, each with the picture of another row of the same question, where there is one."""
    rng = random.Random(f"shuffled {seed}")
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows.rows):
        places.setdefault(row.asked.question, []).append(place)
    source = list(range(len(rows.rows)))
    for same in places.values():
        rng.shuffle(same)
        for place, other in zip(same, same[1:] + same[:1], strict=True):
            source[place] = other
    return Rows(rows.rows, rows.features[source])


def blind_share(rows: Sequence[Seen]) -> float:
    """What knowing the answers of a test, but no picture, could give: to each question its commonest right answer."""
    answers: dict[str, Counter[str]] = {}
    for row in rows:
        answers.setdefault(row.asked.question, Counter())[row.asked.answer] += 1
    return sum(max(counts.values()) for counts in answers.values()) / len(rows)


@torch.no_grad()
def text_changes(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch_size: int = 50
) -> dict[str, float]:
    """How the model reads text without pictures, against its language model without an adapter.

    Returns:
        ``loss``: rise of the mean loss in nats per token; ``logits``: largest change of any logit. Both are exactly 0
        if nothing changed.
    """
    losses: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    largest = 0.0
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            list(texts[start : start + batch_size]), padding=True, padding_side="right", return_tensors="pt"
        )
        labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)[:, 1:]
        logits = {True: model(**batch).logits}
        model.disable_adapters()
        logits[False] = model(**batch).logits
        model.enable_adapters()
        largest = max(largest, (logits[True] - logits[False]).abs().max().item())
        for adapted, found in logits.items():
            loss = torch.nn.functional.cross_entropy(found[:, :-1].transpose(1, 2), labels, reduction="none")
            losses[adapted].append(loss[labels != -100].double())
    before, after = (torch.cat(losses[adapted]).mean().item() for adapted in (False, True))
    return {"loss": after - before, "logits": largest}
