"""The pictures of a training run: its encoder, which rows they belong to, and how they get into a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PretrainedConfig, PreTrainedModel

from excitor.combined import CombinedConfig
from excitor.config import ExcitorConfig
from excitor.data.encoding import IGNORED
from excitor.errors import ExcitorError
from excitor.train.arguments import TrainArguments
from excitor.vision.configuration import ExcitorVisionConfig
from excitor.vision.data import load_image_examples, pictures_of
from excitor.vision.encoder import check_layer, read_vision_config
from excitor.vision.features import FeatureStore, encoding_of, weight_file
from excitor.vision.images import check_images
from excitor.vision.inputs import FeatureInputs, ImageInputs, PixelInputs, of_rows, read_image_processor
from excitor.vision.loading import together
from excitor.vision.model import ExcitorForConditionalGeneration


@dataclass(frozen=True)
class Sight:
    """What a run sees. Rows name pictures by their number, in a column ``pictures``."""

    arguments: TrainArguments
    config: PretrainedConfig
    """Of the encoder."""
    images: ImageInputs
    """By number."""

    def given_to(self, model: PreTrainedModel) -> ExcitorForConditionalGeneration:
        """The language model together with the encoder, which is left out where features are all that is needed."""
        arguments = self.arguments
        return together(
            model,
            str(arguments.vision_model),
            arguments.feature_layer,
            arguments.feature_select,
            encodes=not arguments.features,
        )

    def inputs(self, rows: Dataset, numbers: Sequence[int]) -> Mapping[str, Tensor]:
        """What the model is given of some rows' pictures."""
        return of_rows(self.images, rows[list(numbers)]["pictures"])


def read_seeing_config(arguments: TrainArguments, text_config: PretrainedConfig) -> ExcitorVisionConfig:
    """The configuration of the base and its encoder together.

    Raises:
        ExcitorError: There is no such encoder.
    """
    vision_config = read_vision_config(str(arguments.vision_model))
    config = ExcitorVisionConfig(text_config, vision_config)
    config.name_or_path = text_config.name_or_path
    return config


def check_method(method: PeftConfig) -> None:
    """Check that there is something that can see.

    Raises:
        ExcitorError: No part of the method is Excitor.
    """
    parts = [part.get("peft_type") for part in method.parts] if isinstance(method, CombinedConfig) else []
    if not isinstance(method, ExcitorConfig) and "EXCITOR" not in parts:
        raise ExcitorError(
            "--adapter-config names a method that sees no pictures: with --vision-model it must be EXCITOR, or "
            "COMBINED with EXCITOR among its parts."
        )


def read_pictures(arguments: TrainArguments) -> tuple[Dataset, Sight]:
    """Read the examples and find their pictures.

    Returns:
        The examples, with a column ``pictures``, and what is needed to see them.

    Raises:
        ExcitorError: There is no such encoder, a row or a picture cannot be used, no row has one, or the features do
            not belong to the encoder or lack some.
    """
    name = str(arguments.vision_model)
    config = read_vision_config(name)
    check_layer(config, arguments.feature_layer)
    if not arguments.features:
        weight_file(name)
    processor = None if arguments.features else read_image_processor(name)
    store = FeatureStore(arguments.features) if arguments.features else None
    if store is not None:
        store.check(encoding_of(name, arguments.feature_layer, arguments.feature_select))
    examples = load_image_examples(
        arguments.data,
        arguments.images,
        caption_instruction=arguments.caption_instruction,
        scienceqa_format=arguments.scienceqa_format,
    )
    pictures = pictures_of(examples)
    if not pictures:
        raise ExcitorError(
            f"No row of {', '.join(arguments.data)} has a picture (a column image or images): leave out "
            "--vision-model to train on text."
        )
    if store is None and arguments.check_images:
        check_images(pictures)
    numbers = {path: number for number, path in enumerate(pictures)}
    described = examples.info.description
    column = [[numbers[path] for path in row] for row in examples["images"]]
    examples = examples.remove_columns("images").add_column("pictures", column)  # pyright: ignore[reportCallIssue]
    examples.info.description = described
    images = PixelInputs(pictures, processor) if store is None else FeatureInputs(pictures, store)
    return examples, Sight(arguments, config, images)


class SeeingCollator:
    """Rows of tokens and pictures as a batch, padded on the right.

    Args:
        images: By number.
        padding: Token that fills rows up; masked, so any will do.
    """

    def __init__(self, images: ImageInputs, padding: int) -> None:
        self._images, self._padding = images, padding

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask``, ``labels`` ``(B, T)``, ``num_images`` ``(B,)`` and the pictures."""
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        labels = [torch.tensor(row["labels"]) for row in rows]
        mask = [torch.ones_like(row) for row in ids]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self._padding),
            "attention_mask": pad_sequence(mask, batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            **of_rows(self._images, [row["pictures"] for row in rows]),
        }
