import peft
import pytest
import torch

import excitor
from excitor.diagnostics.attention import attention_of, measurable, scored_attention
from excitor.diagnostics.pictures import Pulls, _leaf_term, picture_shifts, score_parts, terms
from excitor.errors import ExcitorError
from excitor.layer import excitor_layers
from excitor.strength import set_strength
from excitor.vision import ExcitorForConditionalGeneration
from excitor.visual import Pictures, seeing
from tiny import make_encoder, make_llama
from tiny_families import make_family


IDS = [1, 40, 41, 42, 43, 44, 45, 46]
SWITCHES = {
    "visual alone": {"num_prompts": 0},
    "beside learnable": {"num_prompts": 3, "num_local_prompts": 2, "null_prompt": True, "temperature": 0.7},
    "one gate, trunk": {"num_prompts": 2, "gate": "layer", "vision_rank": 4},
}


def make_model(base=None, **switches):
    torch.manual_seed(1)
    model = ExcitorForConditionalGeneration.from_frozen(base or make_llama(), make_encoder())
    values = {"r": 4, "num_prompts": 3, "num_local_prompts": 0, "vision_width": 24, "prompt_init_std": 1.0}
    config = excitor.ExcitorConfig(**(values | {"init_weights": False} | switches))
    return peft.get_peft_model(model, config).eval()


def make_features():
    return torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(2))


def scores(model, layer, features):
    """Scores of one attention before the softmax, ``(H, M, M)``, of a whole forward pass with a picture or without."""
    attention = attention_of(model, layer)
    with measurable(model), scored_attention() as scored, torch.no_grad():
        model(input_ids=torch.tensor([IDS]), image_features=features)
        query, key, scale = scored[attention]
    return scale * query @ key.repeat_interleave(len(query) // len(key), 0).transpose(1, 2)


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox", "llama4 with key norm"])
def test_parts_of_scores_sum_to_what_the_picture_changes(switches, family):
    """In an only adapted layer, where everything below is the same with the picture and without."""
    base = make_family(family, torch.float32) if family != "llama" else make_llama()
    model, features = make_model(base, layers_to_transform=[1], **switches), make_features()
    set_strength(model, 0.8)
    ((name, layer),) = excitor_layers(model).items()
    expected = scores(model, name, features) - scores(model, name, None)
    kept = []
    handle = layer.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    with measurable(model), scored_attention() as scored, seeing(Pictures(features)):
        with torch.no_grad():
            model(input_ids=torch.tensor([IDS]), image_features=features)
        handle.remove()
        taken = terms(layer, "default", kept[0].detach())
        with _leaf_term(layer, "default", kept[0]) as term:
            model(input_ids=torch.tensor([IDS]), image_features=features)
        pulls = Pulls(scored[attention_of(model, name)], term, layer.num_heads)
    assert expected.abs().max() > 0.1
    for row in range(len(IDS)):
        for member in range(pulls.per_key_head):
            parts = score_parts(pulls(row, member), taken)
            assert parts.shape == (layer.num_heads, row + 1, 6)
            torch.testing.assert_close(
                parts.sum(-1), expected[member :: pulls.per_key_head, row, : row + 1], atol=2e-5, rtol=1e-4
            )


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
def test_terms_are_those_of_the_equations(switches):
    model, features = make_model(**switches), make_features()
    layer = next(iter(excitor_layers(model).values()))
    hidden = torch.randn(1, 4, layer.in_features)
    generator, processor = layer.parts("default")
    with torch.no_grad(), seeing(Pictures(features)):
        taken = terms(layer, "default", hidden)
        together = layer.prompt_weights("default", hidden)[0]
    with torch.no_grad():
        z, gate = processor.features(hidden[0]), processor.gates()[:, None]
        groups = generator(z)
        torch.testing.assert_close(taken.values, gate * layer.excitor_visual["default"](features)[1][0])
        expected = torch.zeros_like(taken.learnable)
        if groups:  # the same values, weighed otherwise
            count = generator.num_prompts + generator.num_local_prompts
            change = together[..., :count] - processor.weights(z, groups)[..., :count]
            values = torch.cat([group.values.expand(4, *group.values.shape[-3:]) for group in groups], 1)
            expected = gate * torch.einsum("mgk,mkgd->mgd", change, values)
        torch.testing.assert_close(taken.learnable, expected, atol=1e-5, rtol=1e-4)
    if not switches["num_prompts"]:
        torch.testing.assert_close(taken.weights.sum(-1), torch.ones(4, layer.num_heads))


def attention_of_forward(model, features, layer):
    model.get_base_model().set_attn_implementation("eager")
    with torch.no_grad():
        output = model(input_ids=torch.tensor([IDS]), image_features=features, output_attentions=True)
    return output.attentions[layer][0]


def test_attention_with_and_without_is_that_of_the_model():
    model, features = make_model(layers_to_transform=[1]), make_features()
    (seen,) = picture_shifts(model, IDS, features)
    assert seen.index == 1
    torch.testing.assert_close(seen.after, attention_of_forward(model, features, 1).mean(1))
    torch.testing.assert_close(seen.before, attention_of_forward(model, None, 1).mean(1))


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
def test_shares_sum_to_the_change_in_every_layer_and_head(switches):
    model = make_model(**switches)
    seen = picture_shifts(model, IDS, make_features())
    assert [each.index for each in seen] == [0, 1, 2]
    for each in seen:
        assert (each.after - each.before).abs().max() > 1e-3
        torch.testing.assert_close(each.parts.sum(-1), each.after - each.before, atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(each.after.sum(-1), torch.ones(4))
    if not switches["num_prompts"]:
        assert max(each.parts[..., -1].abs().max() for each in seen) < 1e-6


def test_one_layer_alone():
    model = make_model()
    (only,) = picture_shifts(model, IDS, make_features(), layer=2)
    torch.testing.assert_close(only.parts, picture_shifts(model, IDS, make_features())[2].parts)


def test_model_is_left_as_it_was():
    model = make_model().train()
    before = model(input_ids=torch.tensor([IDS]), image_features=make_features()).logits
    picture_shifts(model, IDS, make_features())
    assert model.training
    torch.testing.assert_close(model(input_ids=torch.tensor([IDS]), image_features=make_features()).logits, before)
    assert not any("term" in layer.__dict__ for layer in excitor_layers(model).values())
    hooks = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    assert not any(type(hook).__module__.startswith("excitor") for hook in hooks)


def test_no_visual_prompts_no_strength_and_several_adapters_are_refused():
    blind = peft.get_peft_model(make_llama(), excitor.ExcitorConfig(r=2, num_prompts=2))
    with pytest.raises(ExcitorError, match="no visual prompts, so a picture changes nothing"):
        picture_shifts(blind, IDS, make_features())
    model = make_model()
    set_strength(model, 0)
    with pytest.raises(ExcitorError, match="at strength 0 a picture changes nothing"):
        picture_shifts(model, IDS, make_features())
    set_strength(model, 1)
    model.add_adapter("second", excitor.ExcitorConfig(r=2, vision_width=24))
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(ExcitorError, match="the active adapters are default, second"):
        picture_shifts(model, IDS, make_features())


def test_capped_scores_are_refused():
    model = make_model(make_family("gemma2", torch.float32), prompt_init_std=30.0)
    with pytest.raises(ExcitorError, match="Gemma2Attention of layer 0 cannot be taken apart"):
        picture_shifts(model, IDS, make_features())
