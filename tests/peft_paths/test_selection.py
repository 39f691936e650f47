"""Which layers are adapted, and with how many prompts and which rank each."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils.error import NoMatchingPeftModuleError

from excitor import ExcitorConfig, ExcitorError
from excitor.layer import excitor_layers
from tiny import make_llama


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)


def sizes(model) -> list[tuple[int, int]]:
    """Rank and number of prompts, layer by layer."""
    parts = [layer.parts("default") for layer in excitor_layers(model).values()]
    return [(processor.A.shape[1], generator.num_prompts) for generator, processor in parts]


@pytest.mark.parametrize(
    ("ranks", "prompts", "expected"),
    [
        ({"layers.1.self_attn.k_proj": 3}, {}, [(16, 30), (3, 30), (16, 30)]),
        ({r".*\.[02]\.self_attn\.k_proj": 3}, {"layers.2.self_attn.k_proj": 5}, [(3, 30), (16, 30), (3, 5)]),
        ({"layers.0.self_attn.k_proj": 2, "k_proj": 4}, {"k_proj": 6}, [(2, 6), (4, 6), (4, 6)]),
    ],
)
def test_patterns_override_single_layers_and_the_first_that_fits_counts(ranks, prompts, expected) -> None:
    config = ExcitorConfig(rank_pattern=ranks, num_prompts_pattern=prompts)
    model = get_peft_model(make_llama(), config)
    assert sizes(model) == expected
    assert (model.peft_config["default"].r, model.peft_config["default"].num_prompts) == (16, 30)


def test_patterns_survive_saving_and_loading(tmp_path) -> None:
    fields = {
        "rank_pattern": {"layers.1.self_attn.k_proj": 3},
        "num_prompts_pattern": {"layers.2.self_attn.k_proj": 5},
    }
    model = get_peft_model(make_llama(), ExcitorConfig(init_weights=False, **fields)).eval()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_llama(), tmp_path)
    assert sizes(loaded) == sizes(model) == [(16, 30), (3, 30), (16, 5)]
    assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)


@pytest.mark.parametrize("field", ["rank_pattern", "num_prompts_pattern"])
def test_a_pattern_that_fits_no_layer_is_not_ignored_in_silence(field: str) -> None:
    with pytest.warns(RuntimeWarning, match=f"{field}.*layers.7"):
        get_peft_model(make_llama(), ExcitorConfig(**{field: {"layers.7.self_attn.k_proj": 2}}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank_pattern": {"k_proj": 0}}, r"rank_pattern\['k_proj'\] must be a whole number of at least 1, got 0"),
        (
            {"num_prompts_pattern": {"k_proj": 0}, "num_local_prompts": 0},
            r"num_prompts_pattern\['k_proj'\] must be .* at least 1, got 0",
        ),
        ({"rank_pattern": {"k_proj(": 2}}, r"'k_proj\(', which is no regular expression"),
        ({"rank_pattern": [3]}, r"rank_pattern must map module names"),
        ({"generator": "mlp", "num_prompts_pattern": {"k_proj": 2}}, "needs generator='table'"),
        ({"target_modules": "all-linear"}, "would treat every linear layer as a key projection"),
        ({"layers_pattern": "layers"}, "set layers_to_transform or top_layers too"),
        ({"layers_pattern": "layers", "target_modules": ".*k_proj"}, "regular expression"),
    ],
)
def test_wrong_selections_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ExcitorError, match=message):
        ExcitorConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_modules": ["key"]}, "Target modules {'key'} not found"),
        ({"layers_to_transform": [9]}, r"'layers_to_transform': \[9\]"),
        ({"exclude_modules": ["k_proj"], "target_modules": ["k_proj"]}, "No modules were targeted"),
    ],
)
def test_selecting_nothing_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(NoMatchingPeftModuleError, match=message):
        get_peft_model(make_llama(), ExcitorConfig(**fields))


def test_adapters_on_other_layers_of_the_same_model() -> None:
    model = get_peft_model(make_llama(), ExcitorConfig(layers_to_transform=[0], init_weights=False), "low")
    model.add_adapter("high", ExcitorConfig(target_modules=r".*\.2\..*k_proj", init_weights=False))
    layers = excitor_layers(model)
    assert {name.split(".")[4]: list(layer.excitor_generator) for name, layer in layers.items()} == {
        "0": ["low"],
        "2": ["high"],
    }
    low = model.eval()(TOKENS).logits
    model.set_adapter("high")
    assert not torch.allclose(model(TOKENS).logits, low)
