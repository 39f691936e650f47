"""COCO's two layouts of captions as rows, and its habit of naming pictures by number."""

import re
from pathlib import Path
from typing import Any

from excitor.data.formats import Row
from excitor.errors import ExcitorError
from excitor.vision.images import SUFFIXES


def caption_rows(value: Any) -> list[Row] | None:
    """A row for every caption of a JSON value; None if it has neither layout.

    ``{"images": [{"id": 42, "file_name": "..."}], "annotations": [{"image_id": 42, "caption": "..."}]}``, where
    ``images`` may be missing, or ``{"42": ["a caption", ...]}``.

    Raises:
        ExcitorError: An annotation or an image lacks what its layout needs.
    """
    if not isinstance(value, dict) or not value:
        return None
    if isinstance(value.get("annotations"), list):
        return _annotations(value["annotations"], value.get("images") or [])
    if all(_are_texts(captions) for captions in value.values()):
        if empty := [image for image, captions in value.items() if not captions]:
            raise ExcitorError(f"image {empty[0]} has no caption: remove it")
        return [{"image_id": image, "caption": one} for image, captions in value.items() for one in captions]
    return None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _annotations(annotations: list[Any], images: list[Any]) -> list[Row]:
    names: dict[Any, str] = {}
    for number, image in enumerate(images, 1):
        if not isinstance(image, dict) or not {"id", "file_name"} <= image.keys():
            raise ExcitorError(f"image {number} of 'images' must have 'id' and 'file_name', got {str(image)[:60]!r}")
        names[image["id"]] = image["file_name"]
    rows: list[Row] = []
    for number, annotation in enumerate(annotations, 1):
        if not isinstance(annotation, dict) or not {"image_id", "caption"} <= annotation.keys():
            raise ExcitorError(f"annotation {number} must have 'image_id' and 'caption', got {str(annotation)[:60]!r}")
        if names and annotation["image_id"] not in names:
            raise ExcitorError(
                f"annotation {number} is about image {annotation['image_id']}, which is not among the "
                f"{len(names):,} of 'images'"
            )
        row = {"image_id": annotation["image_id"], "caption": annotation["caption"]}
        rows.append(row | {"file_name": names[row["image_id"]]} if names else row)
    return rows


def numbered_files(folder: Path) -> dict[int, list[Path]]:
    """The pictures of a folder by the number at the end of their names: ``COCO_val2014_000000000042.jpg`` is 42."""
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        number = re.search(r"\d+$", path.stem)
        if number and path.suffix.lower() in SUFFIXES:
            found.setdefault(int(number[0]), []).append(path)
    return found
