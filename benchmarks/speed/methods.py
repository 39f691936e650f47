"""The models that are compared: one random LLaMA in several sizes, and the methods that adapt it."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import AdaptionPromptConfig, LoraConfig, PrefixTuningConfig, TaskType, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from excitor import BottleneckConfig, ExcitorConfig, ExcitorError
from excitor.implementation import READ, VARIABLE
from excitor.kernels.decode import extension


LORA = "LoRA q,v"  # what the bars of training are measured against


@dataclass(frozen=True)
class Size:
    """Shape of a LLaMA, and how much is run through it."""

    layers: int
    width: int
    heads: int
    key_heads: int
    hidden: int
    vocabulary: int
    batch: int  # rows of a training step
    length: int  # tokens of each
    dtype: torch.dtype = torch.float32

    @property
    def key_width(self) -> int:
        """Features of all key heads."""
        return self.width // self.heads * self.key_heads


SIZES = {
    "tiny": Size(2, 64, 4, 2, 128, 256, 2, 32),
    "0.1B": Size(12, 768, 12, 4, 2048, 8192, 2, 128),
    "1B": Size(16, 2048, 32, 8, 8192, 128256, 4, 1024, torch.bfloat16),
    "8B": Size(32, 4096, 32, 8, 14336, 128256, 1, 2048, torch.bfloat16),
}


@dataclass
class Method:
    """A model under one method.

    Attributes:
        model: Adapted.
        implementation: What ``EXCITOR_IMPL`` is while it runs.
        trains: Whether any parameter does; the frozen base only passes gradients on to its embeddings.
    """

    model: nn.Module
    implementation: str = "auto"
    trains: bool = True

    @property
    def trainable(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad) if self.trains else 0

    @contextmanager
    def chosen(self) -> Iterator[nn.Module]:
        """The model, with its implementation in force."""
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = self.implementation
        READ.clear()
        try:
            yield self.model
        finally:
            del os.environ[VARIABLE]
            if before is not None:
                os.environ[VARIABLE] = before
            READ.clear()


def make_base(size: Size, device: str, positions: int = 16384) -> LlamaForCausalLM:
    """The same random base for every method; speed does not depend on the weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_heads,
        max_position_embeddings=positions,
    )
    with torch.device(device):
        return LlamaForCausalLM(config).to(size.dtype)


def make_methods(size: Size, device: str) -> dict[str, Callable[[], Method]]:
    """Makers by name, the bare base first; all but that and full fine-tuning train about as many parameters."""

    def adapted(config) -> nn.Module:
        return get_peft_model(make_base(size, device), config)

    # What Excitor's defaults train decides how large the others are.
    with torch.device("meta"):
        wanted = Method(get_peft_model(LlamaForCausalLM(make_base(size, "meta").config), ExcitorConfig())).trainable
    rank = round(wanted / (size.layers * (3 * size.width + size.key_width)))  # q: C + C, v: C + C_kv
    virtual = round(wanted / (size.layers * 2 * size.key_width))
    length = round(wanted / (size.layers * size.width))
    width = round(wanted / (size.layers * 2 * size.width))
    task = TaskType.CAUSAL_LM
    excitor = ExcitorConfig(task_type=task, gate_init_std=0.1)
    lora = LoraConfig(task_type=task, r=rank, target_modules=["q_proj", "v_proj"])
    prefix = PrefixTuningConfig(task_type=task, num_virtual_tokens=virtual)
    adaption = AdaptionPromptConfig(task_type=task, adapter_len=length, adapter_layers=size.layers)
    pfeiffer = BottleneckConfig(task_type=task, bottleneck_size=width, target_modules=["down_proj"])
    kernels, choice = ("Excitor, kernels", "triton") if device == "cuda" else ("Excitor, C++", "cpp")
    built = {kernels: lambda: Method(adapted(excitor), choice)}
    if choice == "cpp":
        try:
            extension()
        except ExcitorError as error:
            print(f"Excitor, C++ is left out: {error}", file=sys.stderr)
            built = {}
    return {
        "base": lambda: Method(make_base(size, device).requires_grad_(False), trains=False),
        "Excitor, as written": lambda: Method(adapted(excitor), "eager"),
        "Excitor, folded": lambda: Method(adapted(excitor)),
        **built,
        f"{LORA} r={rank}": lambda: Method(adapted(lora)),
        f"prefix tuning {virtual}": lambda: Method(adapted(prefix)),
        f"adaption prompt {length}": lambda: Method(adapted(adaption)),
        f"bottleneck adapter {width}": lambda: Method(adapted(pfeiffer)),
        "full fine-tuning": lambda: Method(make_base(size, device)),
    }
