import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import excitor
from excitor.diagnostics.attention import shift
from excitor.diagnostics.bound import reach, shift_bound
from excitor.diagnostics.measure import measure
from excitor.errors import ExcitorError
from excitor.layer import excitor_layers
from excitor.strength import set_strength
from tiny import make_llama
from tiny_families import VARIANTS, make_family


scores = st.lists(st.floats(-8, 8), min_size=1, max_size=6)
SWITCHES = [
    {},
    {"num_local_prompts": 2},
    {"num_prompts": 0, "num_local_prompts": 2},
    {"separate_values": True, "num_local_prompts": 1},
    {"null_prompt": True, "temperature": 0.5},
    {"gate": "layer"},
    {"gate": "none"},
    {"generator": "mlp"},
]


@given(scores, st.floats(0, 8), st.data())
def test_no_row_moves_further(logits, largest, data):
    size = len(logits)
    change = data.draw(st.lists(st.floats(-largest, largest), min_size=size, max_size=size))
    before = torch.tensor(logits, dtype=torch.float64)
    after = before + torch.tensor(change, dtype=torch.float64)
    moved = shift(before.softmax(0), after.softmax(0))
    assert moved <= torch.tanh(torch.tensor(largest / 2, dtype=torch.float64)) + 1e-12


def test_bound_is_attained():
    """Two tokens, equally far on both sides of equal shares."""
    before, after = torch.tensor([-1.0, 1.0]).softmax(0), torch.tensor([1.0, -1.0]).softmax(0)
    bound = shift_bound(torch.tensor([[2.0]]), torch.tensor([1.0]))
    torch.testing.assert_close(shift(before, after), bound[0, 0])


def test_query_heads_belong_to_key_heads_in_order():
    bound = shift_bound(torch.ones(4, 3), torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(bound, torch.tanh(torch.tensor([0.25, 0.25, 1.0, 1.0]))[:, None].expand(4, 3))


@pytest.mark.parametrize("strength", [0.02, 1.0, 3.0])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_measured_shift_is_below_the_bound(adapted, switches, strength):
    model = adapted(**switches)
    set_strength(model, strength)
    for layer in measure(model, [[1, *range(40, 70)], [1, 50, 51]]).layers:
        for moved, bound in zip(layer.shift_max, layer.bound, strict=True):
            assert 0 < moved <= bound + 1e-6
            assert strength > 0.1 or bound < 1  # otherwise nothing was tested


def test_rotary_embedding_that_scales(adapted):
    """Variants for long contexts multiply queries and keys by a factor each."""
    bounds = []
    for factor in (1.0, 2.0):
        rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "attention_factor": factor}
        model = adapted(make_llama(rope_parameters=rope))
        set_strength(model, 0.02)
        bounds.append(torch.tensor(measure(model, [[1, 40, 41, 42]]).layers[0].bound).atanh())
    torch.testing.assert_close(bounds[1], 4 * bounds[0])


def make_model(name: str, **changes) -> peft.PeftModel:
    base = make_family(name, torch.float32, changes)
    torch.manual_seed(1)
    model = peft.get_peft_model(base, excitor.ExcitorConfig(r=4, num_prompts=3, init_weights=False))
    set_strength(model, 0.05)
    return model


OWN_ATTENTION = ("bloom", "falcon", "gpt_neo", "gptj")


@pytest.mark.parametrize("name", VARIANTS)
def test_families(name):
    model = make_model(name)
    if VARIANTS[name].model_type in OWN_ATTENTION:
        with pytest.raises(ExcitorError, match=r"cannot be measured: \w+ does not go through transformers' attention"):
            measure(model, [[1, 2]])
        return
    for layer in measure(model, [list(range(1, 20))]).layers:
        assert len(layer.shift) == model.config.get_text_config().num_attention_heads
        assert all(0 < moved <= bound < 1 for moved, bound in zip(layer.shift_max, layer.bound, strict=True))
        assert all(0 < drift < 1 for drift in layer.key_drift)


@pytest.mark.parametrize(
    ("model_type", "name", "small", "large"),
    [("gemma2", "query_pre_attn_scalar", 32, 8), ("granite", "attention_multiplier", 0.1, 0.2)],
)
def test_scores_are_scaled_as_the_model_does(model_type, name, small, large):
    models = [make_model(model_type, **{name: value}) for value in (small, large)]
    halves, wholes = (torch.tensor(measure(model, [[1, 2, 3]]).layers[0].bound).atanh() for model in models)
    torch.testing.assert_close(wholes, 2 * halves)


@pytest.mark.parametrize("switches", [{"num_prompts": 1}, {"num_prompts": 0, "num_local_prompts": 1}], ids=str)
def test_reach_is_the_length_of_a_term_without_choice(adapted, switches):
    """With a single prompt the term is that prompt, gated."""
    (layer, *_) = excitor_layers(adapted(**switches)).values()
    layer.excitor_strength["default"] = 0.5
    hidden = torch.randn(6, 32)
    lengths = 0.5 * layer.term("default", hidden).view(6, 2, 12).norm(dim=-1)
    torch.testing.assert_close(reach(layer, "default", hidden), lengths.amax(0))


def test_reach_is_that_of_the_longest_prompt_of_all(adapted):
    (layer, *_) = excitor_layers(adapted(num_local_prompts=2, separate_values=True)).values()
    generator, processor = layer.parts("default")
    hidden = torch.randn(6, 32)
    by_table = generator.value_prompts.view(5, 2, 12)
    by_token = (hidden @ processor.A @ generator.local_values).view(12, 2, 12)
    expected = processor.gate.abs() * torch.cat([by_table, by_token]).norm(dim=-1).amax(0)
    torch.testing.assert_close(reach(layer, "default", hidden), expected)
