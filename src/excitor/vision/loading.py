"""Gives a loaded language model the vision encoder that an adapter was trained with, or is to be trained with."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from excitor.errors import ExcitorError
from excitor.vision.configuration import ExcitorVisionConfig
from excitor.vision.encoder import load_encoder, read_vision_config
from excitor.vision.model import ExcitorForConditionalGeneration


CONFIG_FILE = "config.json"


def sees(directory: str | os.PathLike[str]) -> bool:
    """Whether an adapter in a folder was trained on pictures."""
    file = Path(directory) / CONFIG_FILE
    if not file.is_file():
        return False
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("model_type") == ExcitorVisionConfig.model_type
    except (ValueError, AttributeError) as error:
        raise ExcitorError(f"{file} is damaged: {error}.") from error


def read_sight(directory: str | os.PathLike[str]) -> ExcitorVisionConfig:
    """Which encoder an adapter sees with.

    Raises:
        ExcitorError: It sees none.
    """
    if not sees(directory):
        raise ExcitorError(
            f"{directory} is no adapter that was trained on pictures (it has no {CONFIG_FILE} that says so): train "
            "one with excitor train --vision-model."
        )
    try:
        config: Any = AutoConfig.from_pretrained(directory)
    except ValueError as error:
        raise ExcitorError(
            f"{directory} sees with an encoder that transformers does not know ({str(error).splitlines()[0]}): import "
            "the module that registers it before excitor runs, as examples/foreign_encoder.py says."
        ) from error
    if config.vision_model is None:
        raise ExcitorError(f"{directory} does not name its vision model, which was made in memory.")
    return config


def with_encoder(model: PreTrainedModel, config: ExcitorVisionConfig) -> ExcitorForConditionalGeneration:
    """A language model and the encoder that an adapter sees with, as one model.

    Args:
        model: The language model.
        config: From :func:`read_sight`.

    Raises:
        ExcitorError: The encoder cannot be loaded.
    """
    return together(model, str(config.vision_model), config.feature_layer, config.feature_select)


def together(
    model: PreTrainedModel, vision_model: str, layer: int, select: str, *, encodes: bool = True
) -> ExcitorForConditionalGeneration:
    """A language model and a vision encoder as one model, without an adapter.

    Args:
        model: The language model.
        vision_model: Folder or hub id of the encoder.
        layer: Of its hidden states.
        select: ``full``, ``patch`` or ``cls``.
        encodes: Whether the encoder is loaded; without it the model sees features that were computed before.

    Raises:
        ExcitorError: There is no such encoder.
    """
    vision_config = read_vision_config(vision_model)
    dtype = model.dtype if model.dtype.is_floating_point else torch.get_default_dtype()
    encoder: Any = load_encoder(vision_model, vision_config, dtype=dtype) if encodes else NoEncoder(vision_config)
    seeing = ExcitorForConditionalGeneration.from_frozen(
        model, encoder.to(model.device), feature_layer=layer, feature_select=select
    )
    seeing.config.vision_model = vision_model
    return seeing


class NoEncoder(torch.nn.Module):
    """Stands where the vision encoder would, for a model that is given features alone.

    Args:
        config: Of the encoder.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.config = config
