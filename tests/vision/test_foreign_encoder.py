import importlib.util
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import AutoImageProcessor

from excitor import ExcitorConfig
from excitor.vision import ExcitorForConditionalGeneration
from excitor.vision.encoder import load_encoder, read_vision_config
from tiny import make_llama


EXAMPLE = Path(__file__).parents[2] / "examples" / "foreign_encoder.py"
SIZES = {"image_size": 16, "patch_size": 4, "embed_dim": 24, "mlp_dim": 32, "depth": 2, "num_heads": 4}


class Original(nn.Module):
    """The classifier as people write it, with its parts named as the example expects them."""

    def __init__(self) -> None:
        super().__init__()
        width = SIZES["embed_dim"]
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, 4, stride=4)})
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, width))
        layer = nn.TransformerEncoderLayer(width, 4, SIZES["mlp_dim"], batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.mlp_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def hidden(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        return self.transformer(tokens + self.pos_embed)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Original, str]:
    spec = importlib.util.spec_from_file_location("foreign_encoder", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(0)
    original = Original().eval()
    save_file(original.state_dict(), folder / "vit.safetensors")
    prepared = {"pixel_mean": [0.5, 0.4, 0.3], "pixel_std": [0.2, 0.2, 0.2]}
    (folder / "config.json").write_text(json.dumps(SIZES | prepared))
    example.convert(folder, folder / "encoder")
    return original, str(folder / "encoder")


def test_it_answers_as_the_original_does(converted: tuple[Original, str]):
    original, folder = converted
    encoder = load_encoder(folder, read_vision_config(folder)).eval()
    pixels = torch.randn(2, 3, 16, 16)
    answer = encoder(pixel_values=pixels, output_hidden_states=True)
    torch.testing.assert_close(answer.last_hidden_state, original.hidden(pixels), atol=1e-5, rtol=1e-5)
    assert len(answer.hidden_states) == 3
    processor = AutoImageProcessor.from_pretrained(folder)
    red = processor(images=[Image.new("RGB", (40, 20), "red")], return_tensors="pt")["pixel_values"]
    assert red.shape == (1, 3, 16, 16)
    torch.testing.assert_close(red[0, :, 0, 0], torch.tensor([2.5, -2.0, -1.5]))


def test_a_language_model_sees_through_it(converted: tuple[Original, str]):
    config = ExcitorConfig(r=4, num_prompts=3, init_weights=False, gate="none")
    model = ExcitorForConditionalGeneration.from_frozen(make_llama(), converted[1], config, feature_select="patch")
    assert model.encode_images(torch.randn(1, 3, 16, 16)).shape == (1, 16, 24)
    ids = torch.tensor([[5, 6, 7]])
    shown = [model(ids, pixel_values=torch.randn(1, 3, 16, 16)).logits for _ in range(2)]
    assert not torch.allclose(shown[0], shown[1], atol=1e-4)
