"""The fused kernels against the same term in plain operations, and against the memory's own speed.

    python benchmarks/fused.py [--size 1B,8B] [--tokens 8192] [--features 576] [--dtype bfloat16] [--output FILE.json]

Needs a CUDA device and Triton. What is timed starts at ``z = x A`` and the key, and ends at the key with the term;
backward at the gradient of that key, and ends at the gradients of z and of the folded tensors. Tasks take turns in one
process; medians. ``copy`` moves as many bytes as the kernels have to: z and the key once in and the key once out,
backward z and the gradient in and the gradient of z out. Bars: ``forward and backward`` at least 5 times as fast as
the equations as they are written, each kernel at 0.7 of the speed of the copy. The tasks with pictures have the same
tokens in 8 rows, each of which looks at ``--features`` features; there is no bar for them.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from excitor import ExcitorConfig
from excitor.folded import Folded, folded_gradients
from excitor.folded_pictures import FoldedPictures
from excitor.functional import Prompts
from excitor.generator import PromptTable
from excitor.processor import PromptProcessor
from excitor.recompute import FOLDED


SHAPES = {"1B": (8, 64), "7B": (32, 128), "8B": (8, 128), "70B": (8, 128)}  # key heads, size of each
ROWS = 8
DTYPES = ("bfloat16", "float16", "float32")


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/fused.py measures GPU kernels: it needs a CUDA device, and there is none.")
    dtype = getattr(torch, arguments.dtype)
    results = {
        "command": " ".join(["python benchmarks/fused.py", *sys.argv[1:]]),
        "machine": torch.cuda.get_device_name(),
        "versions": {name: version(name) for name in ("torch", "triton")},
        "tokens": arguments.tokens,
        "features": arguments.features,
        "dtype": arguments.dtype,
        "rounds": arguments.rounds,
        "sizes": {},
    }
    for size in arguments.size:
        found = measure(*SHAPES[size], dtype, arguments.tokens, arguments.rounds)
        with_pictures = measure_seeing(*SHAPES[size], dtype, arguments.tokens, arguments.features, arguments.rounds)
        results["sizes"][size] = {part: found[part] | with_pictures[part] for part in found}
    for size, found in results["sizes"].items():
        for task, seconds in found["microseconds"].items():
            print(f"{size:4} {task:44} {seconds:10.1f} us")
        for ratio, value in found["ratios"].items():
            print(f"{size:4} {ratio:44} {value:10.2f}")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


def measure(heads: int, head_dim: int, dtype: torch.dtype, tokens: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians in microseconds, and the ratios the bars are about."""
    from excitor.kernels.launch import excited, gradients

    torch.manual_seed(0)
    processor, generator, folded = make_adapter(heads, head_dim)
    z = torch.randn(tokens, processor.rank, device="cuda")
    key, grad = (torch.randn(tokens, heads * head_dim, device="cuda", dtype=dtype) for _ in range(2))
    needed = (True, True, True, False)
    leaves = [z.clone().requires_grad_(), *processor.parameters(), *generator.parameters()]
    leaves = [leaf for leaf in leaves if leaf.shape != processor.A.shape]

    def written() -> None:
        out = key + processor(leaves[0], generator(leaves[0])).to(dtype)
        torch.autograd.grad(out, leaves, grad)

    def fused() -> None:  # the fold included, as in a training step
        made = processor.fold(generator)
        excited(z, _detached(made), key, dtype)
        _, *found = gradients(needed, z, _detached(made), grad)
        torch.autograd.grad([made.scores, made.values], leaves[1:], found[:2])

    def plain() -> None:
        FOLDED.excited(z, folded, key, dtype)
        folded_gradients(needed, z, folded, grad)

    moved = key.nbytes + z.nbytes // 2, (grad.nbytes + 2 * z.nbytes) // 2  # a copy reads and writes each byte
    times = take_turns(
        {
            "as written, forward and backward": written,
            "folded, forward and backward": plain,
            "fused with the fold, forward and backward": fused,
            "fused, forward": lambda: excited(z, folded, key, dtype),
            "fused, backward": lambda: gradients(needed, z, folded, grad),
            "copy of the bytes of forward": copier(moved[0]),
            "copy of the bytes of backward": copier(moved[1]),
        },
        rounds,
    )
    return {
        "microseconds": times,
        "ratios": {
            "as written / fused (bar 5)": times["as written, forward and backward"]
            / times["fused with the fold, forward and backward"],
            "copy / fused, forward (bar 0.7)": times["copy of the bytes of forward"] / times["fused, forward"],
            "copy / fused, backward (bar 0.7)": times["copy of the bytes of backward"] / times["fused, backward"],
        },
    }


def measure_seeing(
    heads: int, head_dim: int, dtype: torch.dtype, tokens: int, features: int, rounds: int
) -> dict[str, dict[str, float]]:
    """The same for rows that see pictures."""
    from excitor.kernels.launch_seeing import excited, gradients

    torch.manual_seed(0)
    processor, generator, folded = make_adapter(heads, head_dim)
    shape = ROWS, tokens // ROWS
    z = torch.randn(*shape, processor.rank, device="cuda")
    key, grad = (torch.randn(*shape, heads * head_dim, device="cuda", dtype=dtype) for _ in range(2))
    keys, values = (torch.randn(ROWS, 1, features, heads, head_dim, device="cuda") for _ in range(2))
    prompts = Prompts(keys.requires_grad_(), values.requires_grad_())
    seen = processor.fold_pictures(prompts)
    pictures = FoldedPictures(seen.scores.detach(), seen.values.detach(), None)
    leaves = [z.clone().requires_grad_(), *processor.parameters(), *generator.parameters(), keys, values]
    leaves = [leaf for leaf in leaves if leaf.shape != processor.A.shape]

    def written() -> None:
        out = key + processor(leaves[0], [*generator(leaves[0]), prompts]).to(dtype)
        torch.autograd.grad(out, leaves, grad)

    def forward_and_backward(backend_term: Callable, backend_gradients: Callable) -> None:  # with both folds
        own, seen = processor.fold(generator), processor.fold_pictures(prompts)
        held = _detached(own), FoldedPictures(seen.scores.detach(), seen.values.detach(), None)
        term, kept = backend_term(z, *held, None, dtype)
        _, scores, values, _, *of_pictures = backend_gradients(z, *held, term, kept, grad)
        made = [own.scores, own.values, seen.scores, seen.values]
        torch.autograd.grad(made, leaves[1:], [scores, values, *of_pictures])

    term, kept = excited(z, folded, pictures, None, dtype)
    times = take_turns(
        {
            "pictures, as written, forward and backward": written,
            "pictures, folded, forward and backward": lambda: forward_and_backward(
                FOLDED.seeing, FOLDED.seeing_gradients
            ),
            "pictures, fused, forward and backward": lambda: forward_and_backward(excited, gradients),
            "pictures, fused, forward": lambda: excited(z, folded, pictures, key, dtype),
            "pictures, fused, backward": lambda: gradients(z, folded, pictures, term, kept, grad),
        },
        rounds,
    )
    fused = times["pictures, fused, forward and backward"]
    return {
        "microseconds": times,
        "ratios": {
            "pictures, as written / fused": times["pictures, as written, forward and backward"] / fused,
            "pictures, folded / fused": times["pictures, folded, forward and backward"] / fused,
        },
    }


def make_adapter(heads: int, head_dim: int) -> tuple[PromptProcessor, PromptTable, Folded]:
    """The defaults of ``ExcitorConfig``, with B away from zero, and what they fold to without gradients."""
    config = ExcitorConfig()
    with torch.device("cuda"):
        processor = PromptProcessor(8, config.r, heads, head_dim, num_gates=heads, gate_init=1.0, gate_init_std=0.1)
        generator = PromptTable(
            config.num_prompts,
            heads,
            head_dim,
            rank=config.r,
            init_std=config.prompt_init_std,
            num_local_prompts=config.num_local_prompts,
        )
    return processor, generator, _detached(processor.fold(generator))


def copier(size: int) -> Callable[[], Tensor]:
    """Copies ``size`` bytes from one place to another."""
    source, target = (torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    return lambda: target.copy_(source)


def take_turns(tasks: dict[str, Callable[[], object]], rounds: int, repeats: int = 20) -> dict[str, float]:
    """Median microseconds of each, by the device's clock; caches are cold before each run, as within a model."""
    cold = torch.empty(256 * 2**20, dtype=torch.uint8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds + 1):
        for name, task in tasks.items():
            for _ in range(repeats):
                cold.zero_()
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                task()
                end.record()
                torch.cuda.synchronize()
                if number:  # the first round compiles
                    times[name].append(1000 * start.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def _detached(folded: Folded) -> Folded:
    return Folded(folded.scores.detach(), folded.values.detach(), None, *folded[3:])


def _arguments() -> argparse.Namespace:
    def sizes(text: str) -> list[str]:
        if unknown := set(text.split(",")) - SHAPES.keys():
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(SHAPES)}")
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=sizes, default=["1B", "8B"])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--features", type=int, default=576)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
