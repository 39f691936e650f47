"""The frozen vision encoder: any of transformers' vision towers, or a module that answers like one."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from excitor.errors import ExcitorError


_POOLING = ("pooler", "head")  # of features that nobody looks at here; checkpoints of classifiers lack them


def read_vision_config(name: str) -> PretrainedConfig:
    """The configuration of a vision encoder; of a model with a text part too (CLIP, SigLIP), that of its vision part.

    Raises:
        ExcitorError: There is no such model, or it does not see.
    """
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ExcitorError(
            f"the vision model {name} is neither a folder with a model nor within reach on the hub "
            f"({str(error).splitlines()[0]})"
        ) from error
    vision = getattr(config, "vision_config", config)
    if not hasattr(vision, "image_size") and not hasattr(vision, "patch_size"):
        raise ExcitorError(
            f"{name} is a {vision.model_type!r}, which takes no pictures: name a vision encoder, such as CLIP, "
            "SigLIP, DINOv2 or ViT."
        )
    if vision.model_type == "siglip2_vision_model":
        raise ExcitorError(
            f"{name} is a SigLIP 2 of the NaFlex kind, which takes patches of pictures of any shape: use one of a "
            "fixed size, such as google/siglip2-base-patch16-224."
        )
    return vision


def check_layer(config: PretrainedConfig, layer: int) -> None:
    """Check that an encoder has these hidden states, as far as its configuration says.

    Raises:
        ExcitorError: It has fewer.
    """
    count = getattr(config, "num_hidden_layers", None)
    if isinstance(count, int) and not -count - 1 <= layer <= count:
        raise ExcitorError(f"feature_layer is {layer}, but the encoder has {count + 1} hidden states.")


def load_encoder(name: str, config: PretrainedConfig, **kwargs: Any) -> PreTrainedModel:
    """The vision encoder of that name, its text part left out.

    Args:
        name: Folder or hub id.
        config: From :func:`read_vision_config`.
        **kwargs: For ``from_pretrained``.

    Raises:
        ExcitorError: Its file is not there, or lacks weights that the features are made with.
    """
    said = logging.get_verbosity()
    logging.set_verbosity_error()  # or it would list the text part's weights one by one as unexpected
    try:
        encoder, found = AutoModel.from_pretrained(name, config=config, output_loading_info=True, **kwargs)
    except OSError as error:
        raise ExcitorError(
            f"the weights of the vision model {name} cannot be loaded ({str(error).splitlines()[0]})"
        ) from error
    finally:
        logging.set_verbosity(said)
    missing = [key for key in found["missing_keys"] if not any(part in key for part in _POOLING)]
    if missing:
        raise ExcitorError(
            f"the vision model {name} lacks {len(missing)} of the weights of a {config.model_type!r}, such as "
            f"{sorted(missing)[0]}: the file is damaged, or of another model."
        )
    return encoder


@torch.no_grad()
def encode(encoder: nn.Module, pixel_values: Tensor, *, layer: int, select: str) -> Tensor:
    """Features of pictures, each normalised to mean 0 and variance 1, so that the maps suit every encoder.

    Args:
        encoder: Called with ``pixel_values`` and ``output_hidden_states``, it answers with ``last_hidden_state`` and
            ``hidden_states``, each ``(N, T, D)``.
        pixel_values: ``(N, 3, H, W)``, as its image processor makes them.
        layer: Of the hidden states.
        select: ``full``, ``patch`` or ``cls``.

    Returns:
        ``(N, V, D)``.

    Raises:
        ExcitorError: The pictures have a size that the encoder cannot take, it has no such layer, or no class
            token where one is asked for.
    """
    config: Any = getattr(encoder, "config", None)
    size = getattr(config, "image_size", None)
    height, width = pixel_values.shape[-2:]
    parameter = next(encoder.parameters())
    pixel_values = pixel_values.to(parameter.device, parameter.dtype)
    try:
        answer = encoder(pixel_values=pixel_values, output_hidden_states=layer != -1)
    except (ValueError, RuntimeError) as error:
        if not isinstance(size, int) or (height, width) == (size, size):
            raise
        # Others, DINOv2 among them, fit their positions to any size.
        raise ExcitorError(
            f"the pictures are {height} x {width} pixels, but the vision encoder takes {size} x {size}: use the image "
            "processor that belongs to it."
        ) from error
    if layer == -1:
        features = answer.last_hidden_state
    else:
        states = answer.hidden_states
        if not -len(states) <= layer < len(states):
            raise ExcitorError(f"feature_layer is {layer}, but the encoder has {len(states)} hidden states.")
        features = states[layer]
    if features.ndim == 4:  # a convolutional network's (N, D, H', W')
        features = features.flatten(2).transpose(1, 2)
    features = features[:, _selected(features.shape[1], (height, width), config, select)]
    return F.layer_norm(features.float(), features.shape[-1:]).to(features.dtype)


def patch_grid(config: Any, size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of patches that an encoder cuts pictures of this height and width into; None if unknown."""
    patch = getattr(config, "patch_size", None)
    return (size[0] // patch, size[1] // patch) if isinstance(patch, int) else None


def _selected(tokens: int, size: tuple[int, int], config: Any, select: str) -> slice:
    """Which tokens of an encoder's output are features: those in front of the patches are no patches."""
    if select == "full":
        return slice(None)
    grid = patch_grid(config, size)
    if grid is None:
        raise ExcitorError(
            f"feature_select={select!r} needs an encoder whose configuration has patch_size, to tell patches from "
            "other tokens: use 'full'."
        )
    others = tokens - grid[0] * grid[1]
    if select == "patch":
        return slice(others, None)
    if others < 1:
        raise ExcitorError("feature_select='cls' needs an encoder with a class token, and this one has patches only.")
    return slice(0, 1)
