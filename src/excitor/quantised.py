"""A base model in 4 or 8 bits, by bitsandbytes: for training, and in the same way for what comes after it."""

import importlib.util
import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

from .arguments import bits_faults
from .errors import ExcitorError
from .run_record import read_run


BITS = (4, 8)


def chosen_bits(load_in_4bit: bool | None, load_in_8bit: bool | None, adapters: Iterable[str] = ()) -> int | None:
    """In how many bits to load a base: as the flags say, else as the adapters on it were trained.

    Args:
        load_in_4bit: None where it was not given; False asks for a base in full.
        load_in_8bit: Likewise.
        adapters: Folders or hub ids.

    Returns:
        4, 8, or None for a base in full.

    Raises:
        ExcitorError: The flags exclude each other, or the adapters were trained in different ways.
    """
    for fault in bits_faults(load_in_4bit, load_in_8bit):
        raise ExcitorError(fault)
    if load_in_4bit or load_in_8bit:
        return 4 if load_in_4bit else 8
    if load_in_4bit is False or load_in_8bit is False:
        return None
    trained = {adapter: trained_bits(adapter) for adapter in adapters}
    if len(set(trained.values())) > 1:
        named = ", ".join(f"{adapter} {f'in {bits} bits' if bits else 'in full'}" for adapter, bits in trained.items())
        raise ExcitorError(
            f"The adapters were trained on bases that were loaded in different ways ({named}): say how with "
            "--load-in-4bit, --load-in-8bit or --no-load-in-4bit, or take them one by one."
        )
    return next(iter(trained.values()), None)


def trained_bits(adapter: str) -> int | None:
    """In how many bits ``excitor train`` had loaded the base of an adapter; None for in full, or if nothing says."""
    run = read_run(adapter)
    return next((bits for bits in BITS if run.get(f"load_in_{bits}bit")), None)


def check_bits(bits: int | None, config: PretrainedConfig) -> None:
    """Find what would stop a base from being loaded in so many bits, without loading it.

    Args:
        bits: 4, 8, or None.
        config: Of the base.

    Raises:
        ExcitorError: bitsandbytes is not installed, or the base is stored in a quantised form of its own.
    """
    if bits is None:
        return
    if bits not in BITS:
        raise ExcitorError(f"bits must be 4 or 8, or None for a base in full, got {bits!r}.")
    instead = f"load it as it is (--no-load-in-{bits}bit, bits=None in Python)"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ExcitorError(
            f"Loading {config.name_or_path} in {bits} bits needs bitsandbytes, which is not installed: "
            f"pip install 'excitor[quantised]', or {instead}."
        )
    stored: Any = getattr(config, "quantization_config", None)
    if stored is not None:
        method = stored.get("quant_method") if isinstance(stored, dict) else stored.quant_method
        raise ExcitorError(
            f"{config.name_or_path} is stored quantised already ({method}), so it cannot be loaded in {bits} bits: "
            f"{instead}."
        )


def load_base(
    source: str, dtype: str | torch.dtype, bits: int | None = None, device: str | torch.device | None = None
) -> PreTrainedModel:
    """Load a causal language model.

    Args:
        source: Folder or hub id.
        dtype: Of its weights, or of what is computed with quantised ones; ``"auto"`` is the one it is stored in.
        bits: 4 for NF4 with double quantisation (QLoRA, arXiv 2305.14314), 8 for LLM.int8() (arXiv 2208.07339), None
            for weights as they are.
        device: Where to put it; left to transformers by default.
    """
    if bits is None:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        if device is not None:
            model.to(device)  # pyright: ignore[reportArgumentType]  (a decorated method)
    else:
        computing = AutoConfig.from_pretrained(source).dtype if dtype == "auto" else dtype
        config = BitsAndBytesConfig(
            load_in_4bit=bits == 4,
            load_in_8bit=bits == 8,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=computing,
        )
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, quantization_config=config, device_map=None if device is None else {"": device}
        )
    # It tells of its cast to fp16 in every call of every layer.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for module in model.modules():
        # On CPUs with AVX-512 BF16 the first forward pass in evaluation mode would repack 4-bit weights for a kernel
        # that rounds to bf16 and has no backward pass: an adapter trained after it would get no gradient.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # pyright: ignore[reportArgumentType]
    return model


def weight_states(model: nn.Module) -> list[Any]:
    """What bitsandbytes keeps of its weights beside them; a copy of the model on the same weights has to share it."""
    layers = [module for module in model.modules() if type(module).__module__.startswith("bitsandbytes.")]
    states = [getattr(layer, name, None) for layer in layers for name in ("state", "quant_state")]
    return [state for state in states if state is not None]
