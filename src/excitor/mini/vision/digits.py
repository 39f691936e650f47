"""Real pictures: the 1,797 handwritten digits that scikit-learn brings along, no download needed."""

import functools
import random
from typing import Any

import numpy as np
from PIL import Image

from excitor.errors import ExcitorError
from excitor.mini.vision.drawing import SIZE


TRAINED = 1347  # the last 450 are held out; they were written by other people than most of the first


@functools.cache
def load_digits() -> tuple[list[Image.Image], list[int]]:
    """The pictures, 32 x 32 in RGB, and the digit on each.

    Raises:
        ExcitorError: scikit-learn is missing.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ExcitorError(
            "The handwritten digits come with scikit-learn, which is not installed: pip install 'excitor[demo]'."
        ) from error
    found: Any = datasets.load_digits()
    pictures = [
        Image.fromarray((image * 15.9).astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB")
        for image in found.images
    ]
    return pictures, [int(digit) for digit in found.target]


def jitter(picture: Image.Image, rng: random.Random) -> Image.Image:
    """The digit turned, moved and scaled a little."""
    turned = picture.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR)
    scale = rng.uniform(0.9, 1.1)
    left, top = (rng.uniform(-2.5, 2.5) - (scale - 1) * SIZE / 2 for _ in range(2))
    return turned.transform(
        (SIZE, SIZE), Image.Transform.AFFINE, (scale, 0, left, 0, scale, top), Image.Resampling.BILINEAR
    )
