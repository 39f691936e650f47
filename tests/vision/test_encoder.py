from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Siglip2VisionConfig,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTModel,
)

from excitor.errors import ExcitorError
from excitor.vision.encoder import encode, load_encoder, read_vision_config
from tiny import make_encoder, make_llama


SIZES = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
TOWERS = {  # with the number of tokens in front of the patches
    "clip": (lambda: make_encoder(), 1),
    "clip with text": (lambda: CLIPModel(CLIPConfig(vision_config=SIZES, text_config=TEXT)), 1),
    "siglip with text": (lambda: SiglipModel(SiglipConfig(vision_config=SIZES, text_config=TEXT)), 0),
    "dinov2": (lambda: Dinov2Model(Dinov2Config(**SIZES, mlp_ratio=2)), 1),
    "dinov2 with registers": (
        lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2, num_register_tokens=3)),
        4,
    ),
    "dinov3": (
        lambda: DINOv3ViTModel(DINOv3ViTConfig(**SIZES | {"num_attention_heads": 2}, num_register_tokens=3)),
        4,
    ),
    "vit": (lambda: ViTModel(ViTConfig(**SIZES)), 1),
}
PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tower", TOWERS)
def test_towers_of_transformers_load_and_give_features(tower: str, tmp_path: Path, caplog) -> None:
    make, others = TOWERS[tower]
    make().save_pretrained(tmp_path)
    caplog.clear()
    config = read_vision_config(str(tmp_path))
    encoder = load_encoder(str(tmp_path), config).eval()
    assert not caplog.records  # of weights of a text part
    assert config.hidden_size == 24
    full = encode(encoder, PIXELS, layer=-1, select="full")
    assert full.shape == (2, others + 4, 24)
    torch.testing.assert_close(full.mean(-1), torch.zeros(2, others + 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(full.var(-1, correction=0), torch.ones(2, others + 4), atol=1e-2, rtol=0)
    assert torch.equal(encode(encoder, PIXELS, layer=-1, select="patch"), full[:, others:])
    before = encode(encoder, PIXELS, layer=-2, select="full")
    assert before.shape == full.shape
    assert not torch.allclose(before, full, atol=1e-3)
    if others:
        assert torch.equal(encode(encoder, PIXELS, layer=-1, select="cls"), full[:, :1])
    else:
        with pytest.raises(ExcitorError, match="needs an encoder with a class token"):
            encode(encoder, PIXELS, layer=-1, select="cls")


def test_weights_of_the_whole_model_are_those_of_its_tower(tmp_path: Path) -> None:
    whole = CLIPModel(CLIPConfig(vision_config=SIZES, text_config=TEXT)).eval()
    whole.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), read_vision_config(str(tmp_path))).eval()
    expected = whole.vision_model(PIXELS).last_hidden_state
    torch.testing.assert_close(encoder(PIXELS).last_hidden_state, expected)


def test_any_module_that_answers_like_one_will_do() -> None:
    class Answer:
        last_hidden_state = torch.randn(2, 24, 3, 5)  # (N, D, H', W'), as convolutional networks have it

    class Network(nn.Module):
        config = AutoConfig.for_model("resnet")

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, pixel_values: torch.Tensor, output_hidden_states: bool) -> Answer:
            return Answer()

    features = encode(Network(), PIXELS, layer=-1, select="full")
    assert features.shape == (2, 15, 24)
    with pytest.raises(ExcitorError, match="has patch_size"):
        encode(Network(), PIXELS, layer=-1, select="patch")


def test_a_tower_that_fits_its_positions_takes_other_sizes() -> None:
    """DINOv2 is published for 518 pixels with an image processor that crops 224."""
    encoder = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2, num_register_tokens=3)).eval()
    assert encode(encoder, torch.randn(1, 3, 24, 24), layer=-1, select="patch").shape == (1, 9, 24)


def test_what_cannot_be_encoded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExcitorError, match="feature_layer is 7, but the encoder has 3 hidden states"):
        encode(make_encoder(), PIXELS, layer=7, select="full")
    with pytest.raises(ExcitorError, match="16 x 24 pixels"):
        encode(make_encoder(), torch.randn(1, 3, 16, 24), layer=-1, select="full")
    encoder = make_encoder()
    held = {name: tensor for name, tensor in encoder.state_dict().items() if "layers.1.mlp" not in name}
    encoder.save_pretrained(tmp_path / "damaged", state_dict=held)
    with pytest.raises(ExcitorError, match=r"lacks 4 of the weights of a 'clip_vision_model', such as .*layers.1.mlp"):
        load_encoder(str(tmp_path / "damaged"), read_vision_config(str(tmp_path / "damaged")))
    encoder.config.save_pretrained(tmp_path / "empty")
    with pytest.raises(ExcitorError, match=r"the weights of the vision model .*empty cannot be loaded"):
        load_encoder(str(tmp_path / "empty"), read_vision_config(str(tmp_path / "empty")))
    Siglip2VisionConfig(**{**SIZES, "image_size": None}).save_pretrained(tmp_path / "naflex")
    with pytest.raises(ExcitorError, match="SigLIP 2 of the NaFlex kind"):
        read_vision_config(str(tmp_path / "naflex"))
    make_llama().save_pretrained(tmp_path)
    with pytest.raises(ExcitorError, match="takes no pictures"):
        read_vision_config(str(tmp_path))
