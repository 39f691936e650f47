import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model


@pytest.fixture
def adapted(llama) -> PeftModel:
    """A LoRA that changes something: nothing here may depend on the method."""
    return get_peft_model(llama, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))


@pytest.fixture
def documents() -> Dataset:
    """Six rows of different lengths; the first half of each is not supervised."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(3, 259, (n,), generator=generator).tolist() for n in (9, 30, 2, 17, 30, 5)]
    return Dataset.from_dict({"input_ids": ids, "labels": [[-100] * (len(x) // 2) + x[len(x) // 2 :] for x in ids]})
