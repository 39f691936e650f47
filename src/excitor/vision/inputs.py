"""What the model is given of pictures: pixels read from their files, or features that were computed before."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AutoImageProcessor

from excitor.errors import ExcitorError
from excitor.vision.features import FeatureStore
from excitor.vision.images import load_image


class ImageInputs(Protocol):
    """The pictures of a data set, by their number."""

    def __call__(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """The model's argument for these pictures; empty for none."""
        ...


def check_names(arguments: Mapping[str, Any]) -> None:
    """Refuse pictures under a name that a language model would ignore in silence.

    Args:
        arguments: All that the language model is given by name.

    Raises:
        ExcitorError: One of them seems to be about pictures.
    """
    for name in arguments:
        if "image" in name or "pixel" in name:
            raise ExcitorError(
                f"there is no argument {name}: pictures are pixel_values or image_features, and num_images says how "
                "many belong to each row."
            )


def count_of_rows(num_images: Any) -> Tensor:
    """How many pictures belong to each row, ``(B,)``.

    Raises:
        ExcitorError: They are no such numbers.
    """
    counts = torch.as_tensor(num_images)
    if counts.ndim != 1 or counts.is_floating_point() or counts.is_complex() or bool((counts < 0).any()):
        raise ExcitorError(
            f"num_images must be a whole number of at least 0 for each row, (B,), got {counts.tolist()}."
        )
    return counts


def of_rows(images: ImageInputs, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """The model's arguments for rows of pictures: theirs one after another, and ``num_images``, ``(rows,)``."""
    counts = torch.tensor([len(row) for row in rows])
    return {"num_images": counts} | images([number for row in rows for number in row])


def by_name(
    images: ImageInputs, pictures: Mapping[str, Sequence[int]]
) -> Callable[[Sequence[str]], dict[str, Tensor]]:
    """What the model is given of prompts, by their names; see :func:`excitor.evaluate.generation.generate_replies`.

    Args:
        images: By number.
        pictures: The numbers of each prompt's pictures.
    """
    return lambda names: of_rows(images, [pictures[name] for name in names])


class PixelInputs:
    """Pixels, read whenever they are asked for.

    Args:
        pictures: By path, where each is asked for; numbered in their order.
        image_processor: Of the vision encoder.
    """

    def __init__(self, pictures: Mapping[str, str], image_processor: Any) -> None:
        self._pictures, self._processor = list(pictures.items()), image_processor

    def __call__(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """``pixel_values``, ``(N, 3, H, W)``.

        Raises:
            ExcitorError: A picture cannot be read.
        """
        if not numbers:
            return {}
        images = [load_image(*self._pictures[number]) for number in numbers]
        return {"pixel_values": self._processor(images=images, return_tensors="pt")["pixel_values"]}


class FeatureInputs:
    """Features from a store.

    Args:
        pictures: By path, where each is asked for; numbered in their order.
        store: Holds them all.

    Raises:
        ExcitorError: It does not.
    """

    def __init__(self, pictures: Mapping[str, str], store: FeatureStore) -> None:
        self._digests, self._store = list(store.find(pictures).values()), store

    def __call__(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """``image_features``, ``(N, V, D)``."""
        return {"image_features": self._store.get([self._digests[number] for number in numbers])} if numbers else {}


def read_image_processor(vision_model: str) -> Any:
    """The image processor of a vision encoder.

    Raises:
        ExcitorError: There is none.
    """
    try:
        return AutoImageProcessor.from_pretrained(vision_model)
    except (OSError, ValueError, ImportError) as error:
        raise ExcitorError(
            f"--vision-model {vision_model} has no usable image processor (preprocessor_config.json), which says how "
            f"pictures are prepared for it: {str(error).splitlines()[0]}"
        ) from error
