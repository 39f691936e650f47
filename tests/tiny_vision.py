"""Tiny random vision encoders, made here."""

from pathlib import Path

import torch
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel


def make_encoder(**changes) -> CLIPVisionModel:
    """A random CLIP vision tower of 2 layers, width 24, for pictures of 8 pixels in 4 patches."""
    values = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
        "initializer_range": 0.5,
    }
    torch.manual_seed(0)
    return CLIPVisionModel(CLIPVisionConfig(**(values | changes))).eval()


def make_image_processor() -> CLIPImageProcessor:
    """Prepares pictures for it."""
    return CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})


def save_encoder(folder: Path, **changes) -> str:
    """A folder in the hub's format with encoder and image processor."""
    make_encoder(**changes).save_pretrained(folder)
    make_image_processor().save_pretrained(folder)
    return str(folder)
