import peft
import pytest
import torch

import excitor
from tiny import make_llama


@pytest.fixture
def adapted():
    """A tiny LLaMA with an adapter that visibly acts, by the switches of its configuration."""

    def make(base=None, **switches) -> peft.PeftModel:
        base = base or make_llama()
        torch.manual_seed(1)
        config = excitor.ExcitorConfig(
            **({"r": 4, "num_prompts": 5, "num_local_prompts": 0, "init_weights": False} | switches)
        )
        return peft.get_peft_model(base, config).eval()

    return make
