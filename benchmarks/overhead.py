"""What the adapter costs: training steps against LoRA of equal size, cached decoding against the bare base.

    python benchmarks/overhead.py [--threads 2]

One process; the variants take turns, so that whatever else the machine does meets all of them. Medians, and ratios to
the reference with their spread (10th to 90th percentile of the ratios of the same round). Random weights: speed does
not depend on them. Prints a JSON object.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from excitor import ExcitorConfig


# 0.1B: the shape of a small LLaMA with grouped keys
SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
}
BATCH, LENGTH = 4, 128
PROMPT, NEW_TOKENS = 64, 32


def make_base() -> LlamaForCausalLM:
    """The same random base for every variant."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE))


def trainable(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def make_variants() -> dict[str, nn.Module]:
    """The base, Excitor, and the LoRA (q, v) whose size comes nearest to Excitor's."""
    excitor = get_peft_model(make_base(), ExcitorConfig(gate_init_std=0.1))
    per_rank = SHAPE["num_hidden_layers"] * (2 * 768 + 768 + 256)  # q: 768 -> 768, v: 768 -> 256
    rank = round(trainable(excitor) / per_rank)
    lora = get_peft_model(make_base(), LoraConfig(r=rank, target_modules=["q_proj", "v_proj"]))
    return {"base": make_base(), "excitor": excitor, "lora": lora}


def training_step(model: nn.Module) -> Callable[[], None]:
    """Forward, backward and one AdamW step on random tokens."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    tokens = torch.randint(0, SHAPE["vocab_size"], (BATCH, LENGTH))

    def step() -> None:
        model.train()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def decoding(model: nn.Module) -> Callable[[], None]:
    """Greedy decoding with the cache from a prompt."""
    tokens = torch.randint(0, SHAPE["vocab_size"], (1, PROMPT))

    def decode() -> None:
        model.eval()
        model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            pad_token_id=0,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
        )

    return decode


def compare(tasks: dict[str, Callable[[], None]], reference: str, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of each task, and the reference's speed over its own: below 1 is slower than the reference."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 2):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if number >= 2:  # the first two warm up
                times[name].append(time.perf_counter() - started)
    result = {}
    for name, values in times.items():
        ratios = sorted(ours / own for ours, own in zip(times[reference], values, strict=True))
        result[name] = {
            "seconds": round(statistics.median(values), 4),
            f"speed / {reference}": round(statistics.median(ratios), 3),
            "from": round(ratios[len(ratios) // 10], 3),
            "to": round(ratios[-1 - len(ratios) // 10], 3),
        }
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    variants = make_variants()
    adapted = {name: variants[name] for name in ("lora", "excitor")}
    print(
        json.dumps(
            {
                "machine": platform.machine(),
                "threads": arguments.threads,
                "torch": torch.__version__,
                "dtype": "fp32",
                "trainable": {name: trainable(model) for name, model in adapted.items()},
                "training step": compare({k: training_step(m) for k, m in adapted.items()}, "lora", arguments.rounds),
                "cached decoding": compare({k: decoding(m) for k, m in variants.items()}, "base", arguments.rounds),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
