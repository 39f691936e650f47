import pytest
import torch
from peft import PeftConfig, get_peft_model

from excitor import ExcitorConfig, load_adapter, save_adapter
from excitor.generator import PromptMLP, PromptTable
from excitor.layer import excitor_layers
from excitor.materialize import materialize, materialized
from tiny import make_llama


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)


@pytest.fixture
def model():
    config = ExcitorConfig(
        generator="mlp", num_local_prompts=2, separate_values=True, init_weights=False, task_type="CAUSAL_LM"
    )
    return get_peft_model(make_llama(), config)


def generators(model) -> list:
    return [layer.excitor_generator["default"] for layer in excitor_layers(model).values()]


def test_the_table_is_what_the_mlp_made_bit_for_bit(model) -> None:
    before = model(TOKENS).logits
    materialize(model)
    assert torch.equal(model(TOKENS).logits, before)
    assert all(type(each) is PromptTable for each in generators(model))
    assert model.peft_config["default"].generator == "table"


def test_training_goes_on_with_the_mlp(model) -> None:
    held = generators(model)
    with materialized(model):
        assert all(type(each) is PromptTable for each in generators(model))
    assert generators(model) == held
    assert model.peft_config["default"].generator == "mlp"


def test_all_layers_share_the_seeds(model) -> None:
    first, *others = generators(model)
    assert isinstance(first, PromptMLP)
    assert others
    assert all(other.seeds is first.seeds for other in others)


def test_what_is_saved_is_what_inference_needs(model, base_dir, tmp_path) -> None:
    save_adapter(model, tmp_path)
    config = PeftConfig.from_pretrained(tmp_path)
    assert config.generator == "table"
    loaded, _ = load_adapter(str(tmp_path), base=base_dir)
    assert not [name for name, _ in loaded.named_parameters() if "seeds" in name or "outer" in name]
    assert torch.equal(loaded(TOKENS).logits, model.eval()(TOKENS).logits)


def test_peft_saves_the_mlp_itself_so_that_training_can_resume(model, tmp_path) -> None:
    from peft import PeftModel

    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_llama(), tmp_path, is_trainable=True)
    assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)
    first, *others = generators(loaded)
    assert type(first) is PromptMLP
    assert all(other.seeds is first.seeds for other in others)


def test_what_was_frozen_stays_frozen(model) -> None:
    model.requires_grad_(False)
    materialize(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())
