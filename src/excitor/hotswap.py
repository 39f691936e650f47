"""Putting another adapter's values into a loaded one, in place: PEFT's own hot swap is for LoRA alone."""

from dataclasses import fields
from typing import Any

from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from torch import Tensor, nn

from .checkpoint import read_adapter_config
from .config import ExcitorConfig
from .errors import ExcitorError


# Fields that say where an adapter starts, or which modules it is on. The tensors themselves answer for the latter.
_FREE = {
    "gate_init",
    "gate_init_std",
    "prompt_init_std",
    "init_weights",
    "target_modules",
    "exclude_modules",
    "top_layers",
    "layers_to_transform",
    "layers_pattern",
} | {field.name for field in fields(PeftConfig)}


def hotswap_adapter(model: nn.Module, directory: str, adapter_name: str = "default") -> None:
    """Give an adapter of a model the values of another one from disk, in place.

    No parameter is replaced, so a model that ``torch.compile`` has compiled is not compiled again, and optimisers keep
    what they refer to. A CUDA graph that was captured from the uncompiled model in evaluation holds what the old
    values folded to (:mod:`excitor.folded`): capture it again. The adapter keeps its name, strength and configuration.

    Args:
        model: A ``PeftModel``, compiled or not.
        directory: Folder or hub id of the adapter to take the values from. It must have the same shapes: the same
            layers, ranks, numbers of prompts and switches.
        adapter_name: Which of the model's adapters gets them.

    Raises:
        ExcitorError: There is no such adapter on the model or in the folder, or the two differ in more than values.
            The model is left as it was.
    """
    inner: Any = getattr(model, "_orig_mod", model)
    if not isinstance(inner, PeftModel):
        raise ExcitorError(f"hotswap_adapter needs a PeftModel, compiled or not, got {type(inner).__name__}.")
    if adapter_name not in inner.peft_config:
        known = ", ".join(inner.peft_config)
        raise ExcitorError(f"there is no adapter {adapter_name!r} to swap out; known are: {known}.")
    _check_configurations(inner.peft_config[adapter_name], read_adapter_config(directory), directory)
    tensors = load_peft_weights(directory, device="cpu")
    _check_tensors(inner, adapter_name, tensors, directory)
    set_peft_model_state_dict(inner, tensors, adapter_name=adapter_name)


def _check_configurations(old: PeftConfig, new: PeftConfig, directory: str) -> None:
    if not isinstance(old, ExcitorConfig) or not isinstance(new, ExcitorConfig):
        other = new if isinstance(old, ExcitorConfig) else old
        raise ExcitorError(
            f"hotswap_adapter swaps one Excitor adapter for another, and one of these is {other.peft_type}; "
            "for LoRA there is peft.utils.hotswap."
        )
    for field in fields(ExcitorConfig):
        ours, theirs = getattr(old, field.name), getattr(new, field.name)
        if field.name not in _FREE and ours != theirs:
            raise ExcitorError(
                f"{directory} cannot be swapped in: its {field.name} is {theirs!r}, the loaded adapter's is {ours!r}. "
                "Load it beside the other with model.load_adapter and switch with model.set_adapter."
            )


def _check_tensors(model: PeftModel, adapter_name: str, tensors: dict[str, Tensor], directory: str) -> None:
    """Before anything is copied: what is loaded afterwards would be loaded up to the first that does not fit."""
    held = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    places = model.state_dict() | held  # embeddings that were resized are in the file under their own names
    faults = [f"{key} is missing" for key in held if key not in tensors]
    for key, tensor in tensors.items():
        if key not in places:
            faults.append(f"{key} has no place in this model")
        elif tensor.shape != places[key].shape:
            faults.append(f"{key} has shape {list(tensor.shape)}, the loaded one {list(places[key].shape)}")
    if faults:
        raise ExcitorError(f"{directory} cannot be swapped in: {faults[0]} ({len(faults)} such differences).")
