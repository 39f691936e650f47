"""Scenes as pictures: position, size, shade and background vary, and the draw depends on the generator given alone."""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from excitor.mini.vision.scenes import Pair, Scene, Thing


SIZE = 32  # pixels, both ways
_FINE = 4  # drawn that many times larger, then averaged, for smooth edges

_RGB = {
    "red": (225, 45, 45),
    "green": (45, 185, 65),
    "blue": (60, 95, 235),
    "yellow": (235, 215, 50),
    "purple": (165, 60, 200),
    "white": (240, 240, 240),
}


@dataclass(frozen=True)
class Placed:
    """A thing, its centre and its radius in pixels."""

    thing: Thing
    centre: tuple[float, float]
    radius: float


def draw_scene(scene: Scene, rng: random.Random) -> Image.Image:
    """A picture of ``scene``, RGB, 32 x 32."""
    return draw_things(place_things(scene, rng), rng)


def draw_things(placed: Iterable[Placed], rng: random.Random) -> Image.Image:
    """A picture of things at their places, RGB, 32 x 32."""
    dark = rng.randint(10, 50)
    canvas = Image.new("RGB", (SIZE * _FINE, SIZE * _FINE), (dark, dark, dark))
    pen = ImageDraw.Draw(canvas)
    for each in placed:
        colour = tuple(max(0, min(255, part + rng.randint(-12, 12))) for part in _RGB[each.thing.colour])
        _draw(pen, each.thing.shape, each.centre, each.radius, colour, background=(dark, dark, dark))
    return _grain(canvas.reduce(_FINE), rng)


def place_things(scene: Scene, rng: random.Random) -> list[Placed]:
    """Places for the things of a scene; nothing overlaps or leaves the picture."""
    if isinstance(scene, Pair):
        near, far, across = rng.uniform(7, 9.5), rng.uniform(22.5, 25), (rng.uniform(11, 21), rng.uniform(11, 21))
        centres = [(near, across[0]), (far, across[1])]
        if scene.relation == "above":
            centres = [(y, x) for x, y in centres]
        return [
            Placed(thing, centre, rng.uniform(5.5, 6.8))
            for thing, centre in zip((scene.first, scene.second), centres, strict=True)
        ]
    cells = rng.sample([(8.5, 8.5), (23.5, 8.5), (8.5, 23.5), (23.5, 23.5)], scene.count)
    radius = rng.uniform(5.5, 6.8)
    return [Placed(scene.thing, (x + rng.uniform(-0.8, 0.8), y + rng.uniform(-0.8, 0.8)), radius) for x, y in cells]


def _draw(
    pen: ImageDraw.ImageDraw,
    shape: str,
    centre: tuple[float, float],
    radius: float,
    colour: tuple[int, ...],
    background: tuple[int, int, int],
) -> None:
    x, y, r = centre[0] * _FINE, centre[1] * _FINE, radius * _FINE

    def box(share: float) -> tuple[float, float, float, float]:
        return x - share * r, y - share * r, x + share * r, y + share * r

    if shape == "square":
        pen.rectangle(box(0.85), fill=colour)
    elif shape == "triangle":
        corners = [(x + r * math.sin(turn), y - r * math.cos(turn)) for turn in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
        pen.polygon(corners, fill=colour)
    elif shape == "cross":
        pen.rectangle((x - r, y - 0.3 * r, x + r, y + 0.3 * r), fill=colour)
        pen.rectangle((x - 0.3 * r, y - r, x + 0.3 * r, y + r), fill=colour)
    else:
        pen.ellipse(box(1.0), fill=colour)
        if shape == "ring":
            pen.ellipse(box(0.55), fill=background)


def _grain(picture: Image.Image, rng: random.Random) -> Image.Image:
    noise = np.random.default_rng(rng.getrandbits(64)).normal(0, 4, (SIZE, SIZE, 1))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
