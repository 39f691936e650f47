"""Pre-train the LLaMA of the demo that sees, on text alone, and write it to src/excitor/mini/vision/text.

    OMP_NUM_THREADS=2 python scripts/pretrain_mini_text.py

It reads questions about pictures that are not there, with some words listed and an answer that is made of some of
these (excitor.mini.vision.words.page). Which of them would be right, it cannot know.
"""

import argparse
import random
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from descent import Descent
from excitor.mini.tokenizer import make_tokenizer
from excitor.mini.vision import TEXT_DIR
from excitor.mini.vision.words import page


BATCH_SIZE = 64


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=6,
        num_attention_heads=8,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.08,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def make_batch(tokenizer: PreTrainedTokenizerFast, seed: int, step: int) -> dict[str, torch.Tensor]:
    """Fresh pages, padded at the end; padding is no label."""
    rng = random.Random(f"{seed} {step}")
    texts = [page(rng) + tokenizer.eos_token for _ in range(BATCH_SIZE)]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": labels}


def pretrain(out: Path, seed: int, steps: int) -> None:
    torch.manual_seed(seed)
    rng = random.Random(0)
    tokenizer = make_tokenizer(page(rng) for _ in range(5_000))
    model = make_model(tokenizer)
    descent = Descent(model, steps)
    losses: list[float] = []
    started = time.monotonic()
    for step in range(steps):
        loss = model(**make_batch(tokenizer, seed, step)).loss
        descent.step(loss)
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            mean = sum(losses[-50:]) / 50
            print(f"step {step + 1}/{steps}  loss {mean:.4f}  {time.monotonic() - started:.0f} s", flush=True)
    seconds = time.monotonic() - started
    model.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "README.md").write_text(card(seed, steps, sum(losses[-50:]) / len(losses[-50:]), seconds), encoding="utf-8")


def card(seed: int, steps: int, loss: float, seconds: float) -> str:
    """The README that travels with the weights."""
    return f"""# excitor mini text

A LLaMA with about 1.2 million parameters that knows the words for drawn scenes and digits (docs/vision-demo.md).
It has read generated text alone and never seen a picture. Apache-2.0, like the rest of the repository.

Made by `python scripts/pretrain_mini_text.py --seed {seed} --steps {steps}`: {steps} steps of {BATCH_SIZE} pages,
final loss {loss:.4f} nats a token, {seconds / 60:.0f} minutes on {torch.get_num_threads()} CPU threads
(torch {torch.__version__}). Stored in fp16.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TEXT_DIR)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=450)
    arguments = parser.parse_args()
    pretrain(arguments.out, arguments.seed, arguments.steps)
