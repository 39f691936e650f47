import math

import pytest
import torch

import excitor
from excitor.diagnostics.measure import measure
from excitor.errors import ExcitorError
from excitor.layer import excitor_layers
from excitor.strength import gates, set_strength


DOCUMENTS = [[1, 40, 41, 42, 43, 44, 45, 46], [1, 60, 61]]


def test_silent_adapter_measures_nothing(adapted):
    model = adapted()
    set_strength(model, 0)
    measured = measure(model, DOCUMENTS)
    assert measured.mean_shift == 0
    for layer in measured.layers:
        assert {*layer.shift, *layer.shift_max, *layer.bound, *layer.gates, *layer.key_drift} == {0.0}
    assert all(drift.distance == 0 and drift.cosine == pytest.approx(1) for drift in measured.hidden)


def test_numbers_agree_with_their_definitions(adapted):
    model = adapted(layers_to_transform=[1])
    (ids, _) = DOCUMENTS
    measured = measure(model, [ids])
    states = {}
    tokens = torch.tensor([ids])
    states["adapted"] = model(input_ids=tokens, output_hidden_states=True).hidden_states
    with model.disable_adapter():
        states["base"] = model(input_ids=tokens, output_hidden_states=True).hidden_states
    assert [drift.distance for drift in measured.hidden[:1]] == [0.0]  # below the adapted layer nothing changes
    for drift, before, after in zip(measured.hidden, states["base"][1:], states["adapted"][1:], strict=True):
        distance = ((after - before).norm(dim=-1) / before.norm(dim=-1)).mean().item()
        assert drift.distance == pytest.approx(distance, abs=1e-5)

    (layer,) = measured.layers
    (name, projection), *_ = excitor_layers(model).items()
    block = model.get_submodule(name.removesuffix(".self_attn.k_proj"))
    hidden = block.input_layernorm(states["base"][1])[0]
    key = projection.base_layer(hidden).view(len(ids), 2, 12)
    term = projection.term("default", hidden).view(len(ids), 2, 12)
    drift = (term.norm(dim=-1) / key.norm(dim=-1)).mean(0)
    torch.testing.assert_close(torch.tensor(layer.key_drift), drift)
    weights = projection.prompt_weights("default", hidden)
    torch.testing.assert_close(torch.tensor(layer.entropy), torch.distributions.Categorical(weights).entropy().mean(0))
    torch.testing.assert_close(torch.tensor(layer.top_share), weights.mean(0).max(-1).values)
    torch.testing.assert_close(torch.tensor(layer.gates), gates(model)[name])
    assert layer.name == "model.layers.1.self_attn.k_proj"
    assert (layer.index, layer.prompts, layer.max_entropy) == (1, 5, pytest.approx(math.log(5)))
    assert layer.null_share is None


def test_documents_weigh_by_their_tokens(adapted):
    model = adapted()
    long, short = measure(model, DOCUMENTS[:1]), measure(model, DOCUMENTS[1:])
    both = measure(model, DOCUMENTS)
    assert (both.documents, both.tokens) == (2, 11)
    assert both.mean_shift == pytest.approx((8 * long.mean_shift + 3 * short.mean_shift) / 11)
    for each, one, other in zip(both.layers, long.layers, short.layers, strict=True):
        assert each.shift_max == [max(pair) for pair in zip(one.shift_max, other.shift_max, strict=True)]
    assert both.hidden[2].distance == pytest.approx((8 * long.hidden[2].distance + 3 * short.hidden[2].distance) / 11)


def test_null_prompt_is_no_prompt(adapted):
    model = adapted(null_prompt=True)
    with torch.no_grad():
        for layer in excitor_layers(model).values():
            layer.parts("default")[1].null_bias.fill_(30)
    for layer in measure(model, DOCUMENTS).layers:
        assert layer.prompts == 5
        assert layer.max_entropy == pytest.approx(math.log(6))
        assert min(layer.null_share) > 0.999
        assert max(layer.top_share) < 0.001


def test_local_prompts_have_a_share_of_their_own(adapted):
    model = adapted(num_local_prompts=2, null_prompt=True)
    for layer in measure(model, DOCUMENTS).layers:
        assert layer.prompts == 5
        assert layer.max_entropy == pytest.approx(math.log(5 + 2 + 1))
        for top, local, null in zip(layer.top_share, layer.local_share, layer.null_share, strict=True):
            assert top < 1 - local - null < 5 * top
            assert 0 < local < 1
    assert measure(adapted(num_prompts=0, num_local_prompts=2), DOCUMENTS).top_share is None


def test_single_prompt_has_no_share(adapted):
    assert measure(adapted(num_prompts=1), DOCUMENTS).top_share is None


def test_most_shifted(adapted):
    measured = measure(adapted(), DOCUMENTS)
    shifts = {(layer.index, head): value for layer in measured.layers for head, value in enumerate(layer.shift)}
    assert measured.most_shifted() == max(shifts, key=shifts.get)
    assert measured.most_shifted(layer=1)[0] == 1
    assert measured.most_shifted(head=3)[1] == 3
    assert measured.most_shifted(2, 0) == (2, 0)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "no text"),
        ([[1, 2], []], "a document without a token"),
        ([[1] * 257], "257 tokens; the model's context is"),
    ],
)
def test_unusable_documents(adapted, documents, message):
    with pytest.raises(ExcitorError, match=message):
        measure(adapted(), documents)


def test_layers_of_an_adapter_loaded_beside_the_active_one_are_left_out(adapted):
    model = adapted()
    config = excitor.ExcitorConfig(r=2, num_prompts=2, layers_to_transform=[1], init_weights=False)
    model.add_adapter("second", config)
    model.set_adapter("second")
    (layer,) = measure(model, [[1, 40, 41, 42]]).layers
    assert layer.index == 1
    assert max(layer.shift) > 0
