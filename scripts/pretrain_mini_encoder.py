"""Pre-train the embedded vision encoder by itself and write it to src/excitor/mini/vision/encoder.

    OMP_NUM_THREADS=2 python scripts/pretrain_mini_encoder.py

Two tasks, neither of which needs words. It paints what is hidden from it: two fifths of the patches of a picture are
blanked, and it has to give the pixels of all of them. And it recognises a picture that was moved, turned and scaled a
little among others, by its class token. A penalty keeps the features uncorrelated and of one scale, so that a shape is
as plain to read as a colour, of which there are more pixels. No caption, no label and no held-out digit goes in.
"""

import argparse
import random
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from excitor.mini.vision import ENCODER_DIR
from excitor.mini.vision.digits import TRAINED, jitter, load_digits
from excitor.mini.vision.drawing import SIZE, draw_scene
from excitor.mini.vision.scenes import all_scenes
from pretrain_mini import rate_factor


PATCH = 8
BATCH_SIZE = 64  # pictures, each in two views
DIGIT_SHARE = 0.35
HIDDEN_SHARE = 0.4
POOL = 12_000  # pictures that are drawn once and come back in another order
MATRIX_RATE, REST_RATE = 0.02, 0.003

# With their weights: squared error of all normalised pixels; cross-entropy, in nats, of finding a picture's other
# view; squared distance of the features' covariance from the identity, by their number.
LOSSES = {"painting": 1.0, "recognition": 0.1, "redundancy": 0.1}
TEMPERATURE = 0.2


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


def make_views(processor: CLIPImageProcessorPil, seed: int) -> tuple[Tensor, Tensor]:
    """Fresh drawings and digits in two views, the second ones moved, each ``(POOL, 3, SIZE, SIZE)``."""
    rng = random.Random(f"encoder {seed}")
    scenes, digits = all_scenes(), load_digits()[0][:TRAINED]
    pictures = [
        jitter(rng.choice(digits), rng) if rng.random() < DIGIT_SHARE else draw_scene(rng.choice(scenes), rng)
        for _ in range(POOL)
    ]
    first, second = (
        processor(images=views, return_tensors="pt")["pixel_values"]
        for views in (pictures, [jitter(picture, rng) for picture in pictures])
    )
    return first, second


def to_patches(pictures: Tensor) -> Tensor:
    """``(N, 3, SIZE, SIZE)`` to ``(N, patches, 3 * PATCH * PATCH)``."""
    return F.unfold(pictures, PATCH, stride=PATCH).transpose(1, 2)


class Heads(nn.Module):
    """What the two tasks need beside the encoder; it is not kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.painter = nn.Linear(width, 3 * PATCH * PATCH)
        self.naming = nn.Linear(width, width)


def losses_of(model: CLIPVisionModel, heads: Heads, views: Tensor, generator: torch.Generator) -> list[Tensor]:
    """The three losses, see :data:`LOSSES`; patches are blanked in both views."""
    patches = to_patches(views)
    hidden = torch.rand(patches.shape[:2], generator=generator) < HIDDEN_SHARE
    seen = patches.masked_fill(hidden[..., None], 0.0)
    tokens = model(pixel_values=F.fold(seen.transpose(1, 2), SIZE, PATCH, stride=PATCH)).last_hidden_state
    painting = F.mse_loss(heads.painter(tokens[:, 1:]), patches)
    first, second = F.normalize(heads.naming(tokens[:, 0]), dim=-1).chunk(2)
    likeness = first @ second.T / TEMPERATURE
    same = torch.arange(len(first))
    recognition = (F.cross_entropy(likeness, same) + F.cross_entropy(likeness.T, same)) / 2
    features = F.layer_norm(tokens, tokens.shape[-1:]).flatten(0, 1)  # as they are looked at
    excess = torch.cov(features.T) - torch.eye(features.shape[1])
    return [painting, recognition, excess.square().sum() / len(excess)]


def make_optimizers(model: CLIPVisionModel, heads: Heads) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    blocks = {name: each for name, each in model.named_parameters() if each.ndim == 2 and ".layers." in name}
    rest = [each for name, each in model.named_parameters() if name not in blocks]
    return [
        torch.optim.Muon(list(blocks.values()), lr=MATRIX_RATE, weight_decay=0.01),
        torch.optim.AdamW([*rest, *heads.parameters()], lr=REST_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def pretrain(out: Path, seed: int, steps: int) -> None:
    torch.manual_seed(seed)
    model, processor = make_model(), make_processor()
    heads = Heads(model.config.hidden_size)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizers = make_optimizers(model, heads)
    schedules = [torch.optim.lr_scheduler.LambdaLR(each, lambda step: rate_factor(step, steps)) for each in optimizers]
    views = make_views(processor, seed)
    generator = torch.Generator().manual_seed(seed)
    losses: list[list[float]] = []
    started = time.monotonic()
    for step in range(steps):
        places = torch.randint(0, POOL, (BATCH_SIZE,), generator=generator)
        both = torch.cat([view[places] for view in views])
        parts = losses_of(model, heads, both, generator)
        sum(weight * part for weight, part in zip(LOSSES.values(), parts, strict=True)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for part in [*optimizers, *schedules]:
            part.step()
        model.zero_grad()
        heads.zero_grad()
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
drawn scenes and handwritten digits (docs/vision-demo.md). It was trained without captions or labels,
to paint blanked patches and to recognise pictures that were moved. Apache-2.0, like the rest of the repository; the
digits are those that scikit-learn brings along (UCI, CC BY 4.0), of which the last 450 were kept from it.

Made by `python scripts/pretrain_mini_encoder.py --seed {seed} --steps {steps}`: {steps} steps of {BATCH_SIZE} pictures
in two views, at the end {loss},
{seconds / 60:.0f} minutes on {torch.get_num_threads()} CPU threads (torch {torch.__version__}). Stored in fp16.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ENCODER_DIR)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1300)
    arguments = parser.parse_args()
    pretrain(arguments.out, arguments.seed, arguments.steps)
