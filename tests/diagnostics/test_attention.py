import pytest
import torch

import excitor
from excitor.diagnostics.attention import Observation, measurable, observe, shift
from excitor.errors import ExcitorError
from excitor.layer import excitor_layers


IDS = [1, 40, 41, 42, 43, 44, 45, 46]


def observations(model, ids=IDS) -> list[Observation]:
    seen: list[Observation] = []
    with measurable(model):
        observe(model, ids, seen.append)
    return seen


def attentions(model) -> tuple[torch.Tensor, ...]:
    model.get_base_model().set_attn_implementation("eager")
    return model(input_ids=torch.tensor([IDS]), output_attentions=True).attentions


@pytest.mark.parametrize("index", [0, 2])
def test_one_adapted_layer_is_the_base_against_the_adapter(adapted, index):
    """Below an only adapted layer everything is the base's, so whole forwards of both give the same attention."""
    model = adapted(layers_to_transform=[index])
    (seen,) = observations(model)
    torch.testing.assert_close(seen.after, attentions(model)[index][0])
    with model.disable_adapter():
        torch.testing.assert_close(seen.before, attentions(model)[index][0])
    assert shift(seen.before, seen.after).max() > 0.01


def test_rerun_is_silent_in_one_layer_only(adapted):
    """Each layer gets the hidden states of the adapted model."""
    model = adapted()
    seen = observations(model)
    layers = excitor_layers(model)
    for (name, layer), observation in zip(layers.items(), seen, strict=True):
        assert observation.name == name
        assert layer.excitor_strength == {"default": 1.0}
    torch.testing.assert_close(seen[2].after, attentions(model)[2][0])
    for layer in list(layers.values())[2:]:
        layer.excitor_strength["default"] = 0.0
    torch.testing.assert_close(seen[2].before, attentions(model)[2][0])


def test_first_row_cannot_move(adapted):
    for seen in observations(adapted()):
        moved = shift(seen.before, seen.after)
        assert (moved[:, 0] == 0).all()
        assert (moved[:, 1:] > 0).any()


def test_model_is_left_as_it_was(adapted):
    model = adapted().train()
    model.get_base_model().set_attn_implementation("sdpa")
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    observations(model)
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == trainable
    hooks = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    assert not any(type(hook).__module__.startswith("excitor") for hook in hooks)  # transformers keeps its own


def test_several_active_adapters_are_refused(adapted):
    model = adapted()
    model.add_adapter("second", excitor.ExcitorConfig(r=2, num_prompts=2))
    model.base_model.set_adapter(["default", "second"])
    with (
        pytest.raises(ExcitorError, match="the active adapters are default, second: activate the one"),
        measurable(model),
    ):
        pass


def test_attention_without_query_projection_is_refused(adapted):
    model = adapted()
    del model.get_base_model().model.layers[1].self_attn.q_proj
    with pytest.raises(ExcitorError, match=r"layers\.1\.self_attn\.k_proj cannot be measured"), measurable(model):
        pass
