"""How much faster MMLU's questions are answered where they share their few-shot examples, against a plain loop.

    python benchmarks/mmlu.py [--threads 2] [--device cuda]

One topic of 100 questions with the lengths that MMLU has in a LLaMA tokenizer: 600 tokens of examples in front of
questions of 40 to 160. The loop reads one whole prompt after the other, as the original code does; it gets every fifth
question, and takes turns with the shared prefix. Median seconds per question, the ratio with its spread (lowest and
highest round), and the share of equal choices. Random weights and tokens: speed does not depend on them. Prints a JSON
object.
"""

import argparse
import json
import platform
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from excitor.evaluate.mmlu.prompts import Letters, Prompt
from excitor.evaluate.mmlu.scoring import score_letters


SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.1,
}
EXAMPLES, SHORTEST, LONGEST, QUESTIONS = 600, 40, 160, 100
LETTERS = Letters(((11,), (12,), (13,), (14,)))
EVERY = 5  # of the questions, for the loop
ROUNDS = 5
BATCH = 16


def make_prompts() -> list[Prompt]:
    """Random tokens, the same ones at the start of all."""
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(20, SHAPE["vocab_size"], (count,), generator=generator).tolist()

    examples = tokens(EXAMPLES)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (QUESTIONS,), generator=generator).tolist()
    return [Prompt(examples + tokens(length), shots=5, cut=0) for length in lengths]


def loop(model: LlamaForCausalLM, prompts: list[Prompt]) -> torch.Tensor:
    """Log-likelihoods of the letters, one whole prompt after the other."""
    letters = [letter for (letter,) in LETTERS.tokens]
    logits = [model(torch.tensor([prompt.ids], device=model.device)).logits[0, -1] for prompt in prompts]
    return torch.stack(logits).float().log_softmax(dim=-1)[:, letters].cpu()


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).to(arguments.device).eval()
    prompts = make_prompts()
    plain, shared, equal = [], [], []
    loop(model, prompts[:2])  # warm-up
    for _ in range(ROUNDS):
        started = time.perf_counter()
        expected = loop(model, prompts[::EVERY])
        plain.append((time.perf_counter() - started) / len(expected))
        started = time.perf_counter()
        scores = score_letters(model, prompts, LETTERS, BATCH)
        shared.append((time.perf_counter() - started) / len(scores))
        equal.append((scores[::EVERY].argmax(dim=1) == expected.argmax(dim=1)).float().mean().item())
    ratios = sorted(slow / fast for slow, fast in zip(plain, shared, strict=True))
    result = {
        "machine": platform.processor() or platform.machine(),
        "device": arguments.device,
        "threads": arguments.threads,
        "torch": torch.__version__,
        "seconds_per_question": {"loop": statistics.median(plain), "shared prefix": statistics.median(shared)},
        "times_faster": {"median": statistics.median(ratios), "from": ratios[0], "to": ratios[-1]},
        "equal_choices": min(equal),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
