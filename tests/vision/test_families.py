"""Every architecture that the method knows can see: where the term meets the key makes no difference."""

import pytest
import torch

from excitor import ExcitorConfig
from excitor.vision import ExcitorForConditionalGeneration
from tiny import make_encoder
from tiny_families import VARIANTS, make_family


TOKENS = torch.arange(3, 3 + 2 * 9).view(2, 9)
SEE_ALREADY = {
    "gemma3, multimodal",
    "idefics3",
    "llama4, multimodal",
    "llava",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_vl",
    "smolvlm",
}


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in SEE_ALREADY])
def test_a_row_sees_its_own_picture_and_nothing_else(name: str) -> None:
    base = make_family(name)
    expected = base(input_ids=TOKENS).logits
    model = ExcitorForConditionalGeneration.from_frozen(
        base,
        make_encoder(),
        ExcitorConfig(r=3, num_prompts=0, num_local_prompts=0, vision_width=24, init_weights=False, gate="none"),
    ).eval()
    pixels = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, expected)
        folded = model(TOKENS, pixel_values=pixels, num_images=torch.tensor([0, 1])).logits
    assert torch.equal(folded[0], expected[0])
    assert (folded[1] - expected[1]).abs().max() > 1e-4
    eager = model(TOKENS, pixel_values=pixels, num_images=torch.tensor([0, 1])).logits
    torch.testing.assert_close(eager, folded, atol=1e-4, rtol=1e-4)
