"""Finds in a model what its families are known for: the text part, the size of a key head, the place of the key."""

import warnings
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .config import ExcitorConfig
from .errors import ExcitorError
from .families import FAMILIES, Family
from .layer import linear_sizes
from .placement import BehindNorm, BehindRotatedNorm, Placement, in_layout


def text_config(model: nn.Module) -> Any:
    """Configuration of the text part of a transformers model, which may be the whole; None for other models."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else None


def in_text_part(model: nn.Module, key: str) -> bool:
    """Whether a module belongs to the text part: vision and audio towers have a ``k_proj`` too."""
    text = text_config(model)
    if text is None or text is getattr(model, "config", None):
        return True
    return getattr(nearest_config(model, key), "model_type", None) == text.model_type


def place(config: ExcitorConfig, model: nn.Module, key: str) -> tuple[int, Placement, nn.Module | None]:
    """How the term of a key projection reaches the key.

    Args:
        config: Of the adapter.
        model: The base model.
        key: Name of the projection in it.

    Returns:
        Size of a key head, where the term enters, and the norm behind which it does, if there is one.

    Raises:
        ExcitorError: The module is no linear projection, its keys are changed on their way to the scores in a way
            that is not known, or its layout is not the one given.
    """
    target, attention = model.get_submodule(key), model.get_submodule(key.rpartition(".")[0])
    linear = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    sizes = linear_sizes(linear)
    if sizes is None:
        raise ExcitorError(
            f"{key} is a {type(linear).__name__}, not a linear projection (a module with in_features and "
            "out_features): target_modules must name the layers that make the attention keys."
        )
    out_features, details = sizes[1], nearest_config(model, key)
    heads = getattr(details, "num_attention_heads", None)
    family = FAMILIES.get(getattr(details, "model_type", ""))
    if family is None or not f".{key}".endswith(f".{family.key_projection}"):
        if family is not None:
            warnings.warn(
                f"{key} does not make the keys of {family.title}, which {family.key_projection} does: the term is "
                "added to something else. Leave target_modules out for the method of the paper.",
                stacklevel=2,
            )
        _check_no_norm(key, attention)
        size = config.head_dim or _head_dim(details, "head_dim") or out_features
        if config.key_layout is None and heads and out_features > heads * size:
            raise ExcitorError(
                f"{key} has {out_features} outputs, more than {heads} heads of size {size} have: if it makes queries "
                "and values too, say in which order with key_layout; if head_dim is wrong, set it."
            )
        return size, in_layout(config.key_layout or "key", out_features, heads, size), None
    _check_known(config, details, family)
    size = _head_dim(details, family.head_dim) or out_features
    norm = getattr(attention, family.key_norm.name, None) if family.key_norm else None
    if family.key_norm is None or norm is None:
        placement = in_layout(family.layout, out_features, heads, size)
    elif family.key_norm.shape == "rotated":
        placement = BehindRotatedNorm(out_features, details.num_key_value_heads, details.num_attention_heads)
    else:
        placement = BehindNorm(out_features, family.key_norm.shape)
    return config.head_dim or size, placement, norm


def nearest_config(model: nn.Module, key: str) -> Any:
    """Configuration of the innermost model that a module belongs to; None outside of transformers."""
    while key:
        key = key.rpartition(".")[0]
        config = getattr(model.get_submodule(key), "config", None)
        if hasattr(config, "model_type"):
            return config
    return None


def _head_dim(details: Any, field: str) -> int | None:
    """Size of a key head by a model's configuration."""
    heads, width = getattr(details, "num_attention_heads", None), getattr(details, "hidden_size", None)
    return getattr(details, field, None) or (width // heads if heads and width else None)


def _check_known(config: ExcitorConfig, details: Any, family: Family) -> None:
    """Refuse what contradicts the family, and options of the model that leave no exact form."""
    if config.key_layout not in (None, family.layout):
        raise ExcitorError(
            f"key_layout is {config.key_layout!r}, but the {family.key_projection} of {family.title} is known to be "
            f"{family.layout!r}: leave key_layout out."
        )
    for field, reason in family.inexact.items():
        if getattr(details, field, None) is not None:
            raise ExcitorError(
                f"{family.title} with {field}={getattr(details, field)} is not supported: {reason}, so a term on the "
                "projection would not be the extra similarity of the method. Models without that option are."
            )


def _check_no_norm(key: str, attention: nn.Module) -> None:
    """Refuse a projection that the user named where a norm follows that is not known."""
    for name, _ in attention.named_children():
        if name.startswith(("k_", "key_", "qk_")) and "norm" in name:
            raise ExcitorError(
                f"{key} is no key projection that excitor knows, and {name} beside it normalises the keys on their "
                f"way to the scores: the term would be normalised too. Known architectures are: {', '.join(FAMILIES)}."
            )
