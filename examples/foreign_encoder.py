r"""A vision encoder that transformers does not know, as the eyes of a language model.

The encoder here is a small vision transformer for pictures of 32 x 32, as people train them on CIFAR-10 with plain
PyTorch: a convolution cuts patches, ``nn.TransformerEncoder`` (post-norm, ReLU) does the rest. Whatever yours is,
three things make it one of transformers' models: a configuration with ``hidden_size``, ``image_size`` and
``patch_size``; a forward pass that answers with ``last_hidden_state`` and ``hidden_states``; and two ``register``
lines.

Usage, with weights in ``vit.safetensors`` and their sizes in ``config.json``:

    python examples/foreign_encoder.py WEIGHTS_FOLDER encoder
    PYTHONPATH=examples python -c "import foreign_encoder, excitor.cli; excitor.cli.main()" \
        train --vision-model encoder --model MODEL --data captions.json --out runs/captions
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil


class SmallViTConfig(PretrainedConfig):
    """Sizes; the defaults are those of a CIFAR-10 model."""

    model_type = "small_vit"

    def __init__(
        self,
        image_size: int = 32,
        patch_size: int = 4,
        hidden_size: int = 128,
        intermediate_size: int = 256,
        num_hidden_layers: int = 6,
        num_attention_heads: int = 8,
        **kwargs: Any,
    ) -> None:
        self.image_size, self.patch_size, self.hidden_size = image_size, patch_size, hidden_size
        self.intermediate_size, self.num_hidden_layers = intermediate_size, num_hidden_layers
        self.num_attention_heads = num_attention_heads
        super().__init__(**kwargs)


class SmallViT(PreTrainedModel):
    """The encoder without its classifier; parameters have the names of the original."""

    config_class = SmallViTConfig
    main_input_name = "pixel_values"

    def __init__(self, config: SmallViTConfig) -> None:
        super().__init__(config)
        width, patches = config.hidden_size, (config.image_size // config.patch_size) ** 2
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, width))
        layer = nn.TransformerEncoderLayer(
            width, config.num_attention_heads, config.intermediate_size, dropout=0.0, batch_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, config.num_hidden_layers, enable_nested_tensor=False)
        self.post_init()

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = False, **kwargs: Any) -> BaseModelOutput:
        """``(N, 3, H, W)`` to hidden states ``(N, 1 + patches, D)``: the class token, then the patches row by row."""
        patches = self.patch_embed["proj"](pixel_values).flatten(2).transpose(1, 2)
        hidden = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        states = (hidden,)
        for layer in self.transformer.layers:
            states = (*states, layer(states[-1]))
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=states if output_hidden_states else None)


AutoConfig.register(SmallViTConfig.model_type, SmallViTConfig)
AutoModel.register(SmallViTConfig, SmallViT)


def convert(source: Path, target: Path) -> None:
    """Write encoder and image processor in the hub's format.

    Args:
        source: Folder with one safetensors file, and ``config.json`` with sizes, ``pixel_mean`` and ``pixel_std``.
        target: Folder to write.
    """
    sizes = json.loads((source / "config.json").read_text())
    config = SmallViTConfig(
        image_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        hidden_size=sizes["embed_dim"],
        intermediate_size=sizes["mlp_dim"],
        num_hidden_layers=sizes["depth"],
        num_attention_heads=sizes["num_heads"],
    )
    weights = load_file(next(source.glob("*.safetensors")))
    encoder = SmallViT(config)
    encoder.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith("mlp_head.")})
    encoder.save_pretrained(target)
    size = {"height": config.image_size, "width": config.image_size}
    processor = ViTImageProcessorPil(size=size, image_mean=sizes["pixel_mean"], image_std=sizes["pixel_std"])
    processor.save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
