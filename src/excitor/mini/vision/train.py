"""Training the only link between the two frozen models: features are computed once, and the loop is a plain one."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, get_cosine_schedule_with_warmup

from excitor.mini.vision.lessons import Lessons, Seen


BATCH_SIZE = 32
LEARNING_RATE = 3e-3
WARMUP_STEPS = 30
CAPTIONS, QUESTIONS, DIGITS = 0.5, 0.25, 0.25  # shares of the rows of a batch


@dataclass(frozen=True)
class Rows:
    """Rows with the features of their pictures, ``(N, V, D)``."""

    rows: Sequence[Seen]
    features: Tensor


@torch.no_grad()
def encode_rows(model: Any, image_processor: Any, rows: Sequence[Seen], batch_size: int = 256) -> Rows:
    """Compute the features of the pictures of ``rows``; one that is asked about several times is encoded once."""
    pictures = {id(row.picture): row.picture for row in rows}
    places = {name: place for place, name in enumerate(pictures)}
    listed = list(pictures.values())
    parts = [
        model.encode_images(
            image_processor(images=listed[start : start + batch_size], return_tensors="pt")["pixel_values"]
        )
        for start in range(0, len(listed), batch_size)
    ]
    return Rows(rows, torch.cat(parts)[[places[id(row.picture)] for row in rows]])


def train_channel(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    lessons: Lessons,
    image_processor: Any,
    *,
    steps: int,
    seed: int,
    learning_rate: float = LEARNING_RATE,
    batch_size: int = BATCH_SIZE,
) -> Iterator[float]:
    """Train the adapter on captions, questions and digits, with AdamW and a cosine.

    Args:
        model: With an adapter on; nothing else of it has gradients.
        tokenizer: Of its language model.
        lessons: What is taught.
        image_processor: Of its encoder.
        steps: Optimizer steps.
        seed: Of the order of the rows.
        learning_rate: Peak of the cosine.
        batch_size: Rows of a step.

    Yields:
        The loss of each step, in nats per answer token.
    """
    pools = [
        encode_rows(model, image_processor, rows) for rows in (lessons.captions, lessons.questions, lessons.digits)
    ]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(WARMUP_STEPS, steps // 2), steps)
    rng = random.Random(f"order {seed}")
    model.train()
    for _ in range(steps):
        loss = model(**make_batch(tokenizer, pools, batch_size, rng)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        yield loss.item()
    model.eval()


def make_batch(
    tokenizer: PreTrainedTokenizerBase, pools: Sequence[Rows], batch_size: int, rng: random.Random
) -> dict[str, Tensor]:
    """Inputs for forward: rows drawn from ``pools`` (captions, questions, digits), labels on their answers alone."""
    drawn = []
    for pool in rng.choices(pools, (CAPTIONS, QUESTIONS, DIGITS), k=batch_size):
        place = rng.randrange(len(pool.rows))
        drawn.append((pool.rows[place], pool.features[place]))
    prompts = [tokenizer(row.asked.prompt).input_ids for row, _ in drawn]
    answers = [
        tokenizer(f" {row.asked.answer}{tokenizer.eos_token}", add_special_tokens=False).input_ids for row, _ in drawn
    ]
    whole = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    batch = tokenizer.pad({"input_ids": whole}, padding_side="right", return_tensors="pt")
    labels = batch["input_ids"].clone()
    for label, prompt, tokens in zip(labels, prompts, whole, strict=True):
        label[: len(prompt)] = -100
        label[len(tokens) :] = -100
    features = torch.stack([feature for _, feature in drawn])
    return {**batch, "labels": labels, "image_features": features}
