"""Text and pictures to the inputs of the model."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from transformers import AutoProcessor, BatchFeature, ProcessorMixin

from excitor.errors import ExcitorError
from excitor.vision.configuration import ExcitorVisionConfig
from excitor.vision.images import load_image


IMAGE = "<image>"


class ExcitorProcessor(ProcessorMixin):
    """Image processor and tokenizer in one.

    Pictures make no tokens. ``<image>`` in a text says where a writer thinks of one: it is counted against the
    pictures of the row and taken out, with the line break or spaces behind it.

    Args:
        image_processor: Of the vision encoder.
        tokenizer: Of the language model.
        **kwargs: As for every processor of transformers.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        images: Sequence[Image | Sequence[Image]] | Image | None = None,
        text: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Inputs for forward and generate.

        Args:
            images: For each text a picture or a list of pictures, which may be empty; one picture for one text. They
                are made upright RGB as in training, see :func:`excitor.vision.images.load_image`.
            text: One text or several.
            **kwargs: For the tokenizer, such as ``padding``; ``return_tensors`` is always ``"pt"``.

        Returns:
            ``input_ids`` and ``attention_mask`` ``(B, M)``; ``pixel_values`` ``(N, 3, H, W)`` if there is a picture;
            ``num_images`` ``(B,)``.

        Raises:
            ExcitorError: There is another number of rows of pictures than of texts, or of ``<image>`` in a text than
                of its pictures; or a picture cannot be used.
        """
        if text is None:
            raise ExcitorError("the processor was given no text: pictures alone are asked nothing.")
        texts = [text] if isinstance(text, str) else list(text)
        rows = _rows(images, len(texts))
        kwargs["return_tensors"] = "pt"
        cleaned = [
            strip_placeholders(each, len(row), f"text {at}")
            for at, (each, row) in enumerate(zip(texts, rows, strict=True))
        ]
        inputs = dict(self.tokenizer(cleaned, **kwargs))
        inputs.pop("token_type_ids", None)
        pictures = [load_image(picture, f"text {at}") for at, row in enumerate(rows) for picture in row]
        if pictures:
            inputs["pixel_values"] = self.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
        inputs["num_images"] = torch.tensor([len(row) for row in rows])
        return BatchFeature(inputs)


def strip_placeholders(text: str, pictures: int, where: str) -> str:
    """A text without ``<image>``.

    Args:
        text: May have one for each picture, or none at all.
        pictures: How many belong to it.
        where: How a message names the text.

    Raises:
        ExcitorError: There are some, and not as many as pictures.
    """
    head, *parts = text.split(IMAGE)
    if parts and len(parts) != pictures:
        raise ExcitorError(
            f"{where} has {len(parts)} {IMAGE} for {pictures} pictures: write one for each picture, or none at all."
        )
    return head + "".join(part.lstrip() for part in parts)


def _rows(images: Any, texts: int) -> list[list[Image]]:
    if images is None:
        return [[] for _ in range(texts)]
    if isinstance(images, Image):
        images = [images]
    rows = [[row] if isinstance(row, Image) else list(row) for row in images]
    if len(rows) != texts:
        raise ExcitorError(
            f"there are pictures for {len(rows)} rows and {texts} texts: give each text its picture, its list of "
            "pictures, or an empty list."
        )
    return rows


AutoProcessor.register(ExcitorVisionConfig, ExcitorProcessor)
