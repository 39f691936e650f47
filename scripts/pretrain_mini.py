"""Pre-train the embedded base on the generated world and write it to src/excitor/mini/base.

    OMP_NUM_THREADS=2 python scripts/pretrain_mini.py

About 20 minutes on two CPU cores. Step k draws its pages from (seed, k) alone and a checkpoint is written beside the
output every 200 steps, so a run that was interrupted goes on where it stopped, and gives what it would have given.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from descent import Descent
from excitor.mini import BASE_DIR
from excitor.mini.evaluate import examine
from excitor.mini.lessons import make_lessons
from excitor.mini.pages import page, sample_pages
from excitor.mini.tokenizer import make_tokenizer
from excitor.mini.world import WORLD_SEED, World, make_world


ROW_LENGTH = 96
BATCH_SIZE = 32
CHECKPOINT_EVERY = 200


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.08,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def make_batch(world: World, tokenizer: PreTrainedTokenizerFast, seed: int, step: int) -> torch.Tensor:
    """``[BATCH_SIZE, ROW_LENGTH]`` token ids: pages one after another, the last of a row cut off."""
    rng = random.Random(f"{seed} {step}")
    rows = []
    for _ in range(BATCH_SIZE):
        row: list[int] = []
        while len(row) < ROW_LENGTH:
            row += [*tokenizer(page(world, rng)).input_ids, tokenizer.eos_token_id]
        rows.append(row[:ROW_LENGTH])
    return torch.tensor(rows)


def pretrain(out: Path, seed: int, steps: int) -> None:
    torch.manual_seed(seed)
    world = make_world(WORLD_SEED)
    tokenizer = make_tokenizer(sample_pages(world))
    model = make_model(tokenizer)
    descent = Descent(model, steps)
    checkpoint = out.parent / f"{out.name}.checkpoint.pt"
    first, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        descent.load_state_dict(state["descent"])
        first, seconds = state["step"], state["seconds"]
        print(f"continuing at step {first}")

    losses: list[float] = []
    started = time.monotonic() - seconds
    for step in range(first, steps):
        tokens = make_batch(world, tokenizer, seed, step)
        loss = model(tokens, labels=tokens).loss
        descent.step(loss)
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            seconds = time.monotonic() - started
            mean = sum(losses[-50:]) / len(losses[-50:])
            print(f"step {step + 1}/{steps}  loss {mean:.4f}  {seconds:.0f} s", flush=True)
        if (step + 1) % CHECKPOINT_EVERY == 0:
            state = {"model": model.state_dict(), "descent": descent.state_dict()}
            torch.save(state | {"step": step + 1, "seconds": time.monotonic() - started}, checkpoint)

    seconds = time.monotonic() - started
    model.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    abilities = examine(model.float().eval(), tokenizer, make_lessons(world))
    print(json.dumps(abilities, indent=2))
    (out / "README.md").write_text(card(seed, steps, sum(losses[-50:]) / len(losses[-50:]), seconds, abilities))
    checkpoint.unlink(missing_ok=True)


def card(seed: int, steps: int, loss: float, seconds: float, abilities: dict[str, float]) -> str:
    """The README that travels with the weights."""
    rows = "\n".join(f"| {name} | {share:.3f} |" for name, share in abilities.items())
    return f"""# excitor mini base

A LLaMA with about one million parameters that knows an invented world (docs/world.md). Everything it has read was
generated; no outside data went in. Apache-2.0, like the rest of the repository.

Made by `python scripts/pretrain_mini.py --seed {seed} --steps {steps}`: {steps} steps of
{BATCH_SIZE} rows of {ROW_LENGTH} tokens, final loss {loss:.4f} nats a token, {seconds / 60:.0f} minutes on
{torch.get_num_threads()} CPU threads (torch {torch.__version__}). Stored in fp16.

Greedy, exact match, before any fine-tuning:

| | share right |
| --- | --- |
{rows}
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BASE_DIR)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3400)
    arguments = parser.parse_args()
    pretrain(arguments.out, arguments.seed, arguments.steps)
