"""Pre-train the embedded vision encoder by itself and write it to src/excitor/mini/vision/encoder.

    OMP_NUM_THREADS=2 python scripts/pretrain_mini_encoder.py

It learns from labels, as encoders for classification do, and from no words: of every patch the colour and the shape of
the thing on it, and where in the picture it is; of every token of a handwritten digit which one, since whoever looks
at the features may look at any of them. Each is asked apart, and neither counts nor relations are asked. A little of
painting the patches and a penalty that keeps features uncorrelated stand beside it. No caption, no question and no
held-out digit goes in.
"""

import argparse
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from descent import Descent
from excitor.mini.vision import ENCODER_DIR
from excitor.mini.vision.digits import TRAINED, jitter, load_digits
from excitor.mini.vision.drawing import SIZE, draw_things, place_things
from excitor.mini.vision.scenes import COLOURS, SHAPES, Group, all_scenes


PATCH = 8
BATCH_SIZE = 64
DIGIT_SHARE = 0.35
GROUP_SHARE = 0.25  # of the scenes; there are far fewer of them than of pairs
OVERLAP = 2.5  # pixels, both ways, that a thing must reach into a patch to be its label
POOL = 12_000  # pictures that are drawn once and come back in another order
REST_RATE = 0.003

# With their weights: cross-entropies in nats; squared error of all normalised pixels; squared distance of the
# features' covariance from the identity, by their number.
LOSSES = {"colour": 1.0, "shape": 1.0, "digit": 1.0, "place": 0.5, "painting": 0.1, "redundancy": 0.03}


@dataclass(frozen=True)
class Labelled:
    """Pictures ``(N, 3, SIZE, SIZE)``, labels of patches ``(N, patches)`` and of digits ``(N,)``, 0 for none."""

    pictures: Tensor
    colours: Tensor
    shapes: Tensor
    digits: Tensor


def make_model() -> CLIPVisionModel:
    config = CLIPVisionConfig(
        image_size=SIZE,
        patch_size=PATCH,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        projection_dim=64,
    )
    return CLIPVisionModel(config)


def make_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"height": SIZE, "width": SIZE},
        do_center_crop=False,
        image_mean=[0.2, 0.2, 0.2],
        image_std=[0.25, 0.25, 0.25],
    )


def draw_labelled(processor: CLIPImageProcessorPil, seed: int) -> Labelled:
    """Fresh drawings and digits with their labels."""
    rng = random.Random(f"encoder {seed}")
    groups, pairs = [], []
    for scene in all_scenes():
        (groups if isinstance(scene, Group) else pairs).append(scene)
    digit_pictures, digit_labels = load_digits()
    per_side = SIZE // PATCH
    colours, shapes = (torch.zeros(POOL, per_side, per_side, dtype=torch.long) for _ in range(2))
    digits = torch.zeros(POOL, dtype=torch.long)
    pictures = []
    for row in range(POOL):
        if rng.random() < DIGIT_SHARE:
            place = rng.randrange(TRAINED)
            pictures.append(jitter(digit_pictures[place], rng))
            digits[row] = digit_labels[place] + 1
            continue
        placed = place_things(rng.choice(groups if rng.random() < GROUP_SHARE else pairs), rng)
        pictures.append(draw_things(placed, rng))
        for each in placed:
            across, down = (_patches(middle, each.radius) for middle in each.centre)
            colours[row, down, across] = COLOURS.index(each.thing.colour) + 1
            shapes[row, down, across] = SHAPES.index(each.thing.shape) + 1
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    return Labelled(pixels, colours.flatten(1), shapes.flatten(1), digits)


def _patches(middle: float, radius: float) -> slice:
    """The patches of a row or column that a thing reaches into."""
    reached = [
        start
        for start in range(0, SIZE, PATCH)
        if min(middle + radius, start + PATCH) - max(middle - radius, start) > OVERLAP
    ]
    return slice(reached[0] // PATCH, reached[-1] // PATCH + 1)


class Heads(nn.Module):
    """What the tasks need beside the encoder; it is not kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.colour = nn.Linear(width, len(COLOURS) + 1)
        self.shape = nn.Linear(width, len(SHAPES) + 1)
        self.digit = nn.Linear(width, 11)
        self.place = nn.Linear(width, (SIZE // PATCH) ** 2)
        self.painter = nn.Linear(width, 3 * PATCH * PATCH)


def losses_of(model: CLIPVisionModel, heads: Heads, data: Labelled, rows: Tensor) -> list[Tensor]:
    """The losses, see :data:`LOSSES`."""
    pictures = data.pictures[rows]
    tokens = model(pixel_values=pictures).last_hidden_state
    features = F.layer_norm(tokens, tokens.shape[-1:])  # as they are looked at
    patches = features[:, 1:]
    excess = torch.cov(features.flatten(0, 1).T) - torch.eye(features.shape[-1])
    pixels = F.unfold(pictures, PATCH, stride=PATCH).transpose(1, 2)
    return [
        F.cross_entropy(heads.colour(patches).transpose(1, 2), data.colours[rows]),
        F.cross_entropy(heads.shape(patches).transpose(1, 2), data.shapes[rows]),
        F.cross_entropy(heads.digit(features).transpose(1, 2), data.digits[rows, None].expand(-1, features.shape[1])),
        F.cross_entropy(heads.place(patches).flatten(0, 1), torch.arange(patches.shape[1]).repeat(len(patches))),
        F.mse_loss(heads.painter(tokens[:, 1:]), pixels),
        excess.square().sum() / len(excess),
    ]


def pretrain(out: Path, seed: int, steps: int) -> None:
    torch.manual_seed(seed)
    model, processor = make_model(), make_processor()
    heads = Heads(model.config.hidden_size)
    descent = Descent(nn.ModuleList([model, heads]), steps, REST_RATE)
    data = draw_labelled(processor, seed)
    generator = torch.Generator().manual_seed(seed)
    losses: list[list[float]] = []
    started = time.monotonic()
    for step in range(steps):
        parts = losses_of(model, heads, data, torch.randint(0, POOL, (BATCH_SIZE,), generator=generator))
        descent.step(torch.stack(parts) @ torch.tensor(list(LOSSES.values())))
        losses.append([part.item() for part in parts])
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{steps}  {means(losses)}  {time.monotonic() - started:.0f} s", flush=True)
    seconds = time.monotonic() - started
    model.to(torch.float16).save_pretrained(out)
    processor.save_pretrained(out)
    (out / "README.md").write_text(card(seed, steps, means(losses), seconds), encoding="utf-8")


def means(losses: list[list[float]]) -> str:
    """Of the last 100 steps, in words."""
    found = [sum(part) / len(part) for part in zip(*losses[-100:], strict=True)]
    return ", ".join(f"{name} {mean:.4f}" for name, mean in zip(LOSSES, found, strict=True))


def card(seed: int, steps: int, loss: str, seconds: float) -> str:
    """The README that travels with the weights."""
    return f"""# excitor mini encoder

A vision transformer of CLIP's shape with about 180,000 parameters, for pictures of {SIZE} x {SIZE} pixels:
drawn scenes and handwritten digits (docs/vision-demo.md). It was trained on labels, of patches the colour and
the shape on them and their place, of every token of a digit which one it is, and on no words. Apache-2.0, like the
rest of the repository; the digits are those that scikit-learn brings along (UCI, CC BY 4.0), of which the last 450
were kept from it.

Made by `python scripts/pretrain_mini_encoder.py --seed {seed} --steps {steps}`:
{steps} steps of {BATCH_SIZE} pictures, at the end {loss},
{seconds / 60:.0f} minutes on {torch.get_num_threads()} CPU threads (torch {torch.__version__}). Stored in fp16.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ENCODER_DIR)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1200)
    arguments = parser.parse_args()
    pretrain(arguments.out, arguments.seed, arguments.steps)
