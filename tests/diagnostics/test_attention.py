import pytest
import torch

import excitor
from excitor.diagnostics.attention import Observation, measurable, observe, shift
from excitor.errors import ExcitorError
from excitor.layer import excitor_layers
from excitor.preservation.losses import recorded_keys
from excitor.strength import set_strength
from tiny_families import make_family


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


def test_attention_of_its_own_is_refused(adapted):
    model = adapted(make_family("falcon, new", torch.float32))
    message = r"h\.0\.self_attention\.query_key_value cannot be measured: FalconAttention does not go through"
    with pytest.raises(ExcitorError, match=message), measurable(model):
        pass


def key_of(name, layer, attention, seen):
    """The key where the term enters, by the code of each model; ``(M, G, d)``."""
    output = layer.base_layer(seen.hidden)
    match name:
        case "qwen3" | "gemma3":
            return attention.k_norm.forward(output.view(len(IDS), 2, 10))
        case "olmo2":
            return attention.k_norm.forward(output).view(len(IDS), 2, 8)
        case "gpt2":
            return output[:, 32:64].view(len(IDS), 4, 8)
        case "gpt_neox":
            return output.view(len(IDS), 4, 24)[..., 8:16]
        case "deepseek_v3":
            return output.view(len(IDS), 4, 11)[..., :6]


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "olmo2", "gpt2", "gpt_neox", "deepseek_v3"])
def test_keys_are_seen_where_the_term_enters(adapted, name):
    model = adapted(make_family(name, torch.float32))
    seen = observations(model)
    with recorded_keys(model) as (plain, excited), torch.no_grad():
        model(input_ids=torch.tensor([IDS]))
    for (path, layer), each, before, after in zip(excitor_layers(model).items(), seen, plain, excited, strict=True):
        attention = model.get_submodule(path.rpartition(".")[0])
        expected = key_of(name, layer, attention, each).flatten(1)
        torch.testing.assert_close(each.key, expected)
        torch.testing.assert_close(before[0], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(after[0], expected + layer.term("default", each.hidden), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama4 with key norm", "llama4 with key norm, equal heads"])
def test_rotated_keys_keep_their_length(adapted, name):
    model = adapted(make_family(name, torch.float32))
    (first, *_) = observations(model)
    layer = first.layer
    key = layer.base_layer(first.hidden).unflatten(-1, (layer.num_heads, -1))
    attention = model.get_submodule(first.name.rpartition(".")[0])
    lengths = attention.qk_norm._norm(key).norm(dim=-1)
    torch.testing.assert_close(first.key.unflatten(-1, (layer.num_heads, -1)).norm(dim=-1), lengths)
    with recorded_keys(model) as (plain, excited), torch.no_grad():
        model(input_ids=torch.tensor([IDS]))
    assert len(plain) == len(excitor_layers(model))  # as many queries as keys are not taken for keys
    torch.testing.assert_close(plain[0][0].unflatten(-1, (layer.num_heads, -1)).norm(dim=-1), lengths)
    assert all((after - before).abs().max() > 0.01 for before, after in zip(plain, excited, strict=True))
    set_strength(model, 0)
    (first, *_) = observations(model)
    torch.testing.assert_close(first.key.unflatten(-1, (layer.num_heads, -1)).norm(dim=-1), lengths)
