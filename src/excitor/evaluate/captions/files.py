"""Reads captions in the layouts that the COCO tools and their users write."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from excitor.errors import ExcitorError
from excitor.evaluate.captions.tokenizer import tokenize
from excitor.evaluate.json_file import read_json
from excitor.evaluate.names import some


LAYOUTS = """expected one of
  [{"image_id": 42, "caption": "a dog"}, ...]                    (COCO results)
  {"annotations": [{"image_id": 42, "caption": "a dog"}, ...]}   (COCO annotations)
  {"42": ["a dog", ...], ...}                                    (captions by image)"""

Words = list[str]


def read_pair(
    results: Path, annotations: Path, *, subset: bool = False
) -> tuple[dict[str, Words], dict[str, list[Words]]]:
    """The words of the caption of each image in ``results``, and of the references of the same images.

    Args:
        results: One caption an image.
        annotations: Some captions an image.
        subset: Whether there may be references of other images; they are left out.

    Raises:
        ExcitorError: A file cannot be read or has another layout, a caption is no text or has no words, an image has
            two captions in ``results``, or images stand in one of the files only.
    """
    candidates, places = _read_candidates(results)
    references = _read_references(annotations)
    unknown = [f"{image} ({places[image]})" for image in candidates if image not in references]
    if unknown:
        raise ExcitorError(
            f"{results}: {len(unknown)} of {len(candidates)} captioned images have no references in {annotations}: "
            f"{some(unknown)}. Remove their captions or give the annotations they belong to."
        )
    missing = [image for image in references if image not in candidates]
    if missing and not subset:
        raise ExcitorError(
            f"{annotations}: {len(missing)} of {len(references)} images have no caption in {results}: "
            f"{some(missing)}. Caption them, or give --subset to score the captioned images alone."
        )
    return candidates, {image: references[image] for image in candidates}


def _read_candidates(path: Path) -> tuple[dict[str, Words], dict[str, str]]:
    """The words of the one caption of each image, and where in the file it stands."""
    candidates: dict[str, Words] = {}
    places: dict[str, str] = {}
    for place, image, words in _read(path):
        if image in candidates:
            raise ExcitorError(
                f"{path}, {place}: image {image} has a caption already, in {places[image]}; a result has one an image"
            )
        candidates[image], places[image] = words, place
    return candidates, places


def _read_references(path: Path) -> dict[str, list[Words]]:
    """The words of all captions of each image."""
    references: dict[str, list[Words]] = {}
    for _, image, words in _read(path):
        references.setdefault(image, []).append(words)
    return references


def _read(path: Path) -> Iterator[tuple[str, str, Words]]:
    """The place in the file, the image and the words of each caption."""
    for place, image, caption in _rows(path, read_json(path)):
        if not isinstance(image, (int, str)) or isinstance(image, bool):
            raise ExcitorError(f"{path}, {place}: the image id must be a number or a text, not {image!r}")
        if not isinstance(caption, str):
            raise ExcitorError(f"{path}, {place} (image {image}): the caption must be a text, not {caption!r}")
        words = tokenize(caption)
        if not words:
            raise ExcitorError(f"{path}, {place} (image {image}): the caption {caption!r} is empty or has no words")
        yield place, str(image), words


def _rows(path: Path, value: Any) -> Iterator[tuple[str, Any, Any]]:
    rows = value.get("annotations") if isinstance(value, dict) and "annotations" in value else value
    if not rows or not isinstance(rows, (list, dict)):
        raise ExcitorError(f"{path} holds no captions; {LAYOUTS}")
    if isinstance(rows, list):
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict) or not {"image_id", "caption"} <= row.keys():
                raise ExcitorError(f"{path}, row {number} is {str(row)[:60]!r}; {LAYOUTS}")
            yield f"row {number}", row["image_id"], row["caption"]
        return
    for image, captions in rows.items():
        if not isinstance(captions, list) or not captions:
            raise ExcitorError(f"{path}: {image!r} has {str(captions)[:60]!r}; {LAYOUTS}")
        for number, caption in enumerate(captions, 1):
            yield f"caption {number} of {image!r}", image, caption
