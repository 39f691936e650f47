"""A tiny vision encoder as a folder, and pictures for it."""

from pathlib import Path

from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tiny import make_encoder


SIZE = 16
COLOURS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230), "grey": (128, 128, 128)}


def make_image_processor() -> CLIPImageProcessorPil:
    """Prepares pictures for ``tiny.make_encoder``."""
    return CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})


def save_encoder(folder: Path, **changes) -> str:
    """A folder in the hub's format with encoder and image processor."""
    make_encoder(**changes).save_pretrained(folder)
    make_image_processor().save_pretrained(folder)
    return str(folder)


def save_pictures(folder: Path) -> dict[str, str]:
    """A picture of each colour; their paths by colour."""
    folder.mkdir(exist_ok=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (SIZE, SIZE), colour).save(folder / f"{name}.png")
    return {name: str(folder / f"{name}.png") for name in COLOURS}
