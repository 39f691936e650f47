"""Drawings over a picture, patch by patch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from excitor.diagnostics.plots import printable


COLUMNS = 4
OPAQUE = 0.85  # of the patch that matters most


def pixels_seen(pixel_values: Tensor, image_processor: Any) -> Tensor:
    """The picture as an encoder was given it, cropped and resized, with what was done to its colours undone.

    Args:
        pixel_values: ``(3, height, width)``.
        image_processor: That made them.

    Returns:
        ``(height, width, 3)``, from 0 to 1.
    """
    pixels = pixel_values.float().cpu()
    if getattr(image_processor, "do_normalize", False):
        mean, std = (torch.tensor(getattr(image_processor, name)) for name in ("image_mean", "image_std"))
        pixels = pixels * std[:, None, None] + mean[:, None, None]
    scale = image_processor.rescale_factor if getattr(image_processor, "do_rescale", False) else 1.0
    return (pixels / (255 * scale)).clamp(0, 1).permute(1, 2, 0)


def draw_maps(pixels: Tensor, maps: Mapping[str, Tensor], patch_size: int, path: Path) -> None:
    """Draw the picture, and over a grey copy of it for each map where attention comes from (blue) or is taken (red).

    Args:
        pixels: ``(height, width, 3)``, from 0 to 1.
        maps: By title, ``(rows, columns)`` each, in shares of attention; drawn to one scale, in per cent.
        patch_size: Pixels a side; what a last incomplete patch would cover has no colour.
        path: Of the PNG.
    """
    count = 1 + len(maps)
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.4 * columns + 0.8, 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
    panels[0].imshow(pixels.numpy())
    panels[0].set_title("as the encoder sees it", fontsize=9)
    grey = pixels.mean(-1, keepdim=True).expand(-1, -1, 3)
    largest = max((100 * each.abs().max().item() for each in maps.values()), default=0.0) or 1.0
    drawn = None
    for panel, (title, each) in zip(panels[1:], maps.items(), strict=False):
        per_cent = 100 * each.numpy()
        edges = (-0.5, each.shape[1] * patch_size - 0.5, each.shape[0] * patch_size - 0.5, -0.5)
        panel.imshow(grey.numpy())
        drawn = panel.imshow(
            per_cent,
            cmap="RdBu",
            vmin=-largest,
            vmax=largest,
            alpha=OPAQUE * abs(per_cent) / largest,
            extent=edges,
            interpolation="nearest",
        )
        panel.set(xlim=(-0.5, pixels.shape[1] - 0.5), ylim=(pixels.shape[0] - 0.5, -0.5))
        panel.set_title(printable(title), fontsize=9)
    if drawn is not None:
        figure.colorbar(drawn, ax=list(panels), label="attention taken (red), given (blue), %", shrink=0.8)
    figure.savefig(path, dpi=120)
