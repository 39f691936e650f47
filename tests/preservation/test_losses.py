import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close

from excitor import ExcitorConfig, ExcitorError
from excitor.layer import excitor_layers
from excitor.preservation.losses import gate_size, kl_to_base, recorded_keys, relative_size
from tiny import make_llama


MASK = torch.tensor([[True, True, True, False], [True, False, False, False]])


def test_kl_and_its_gradient_are_those_of_the_formula():
    base = torch.randn(2, 4, 7)
    logits = torch.randn(2, 4, 7, requires_grad=True)
    value = kl_to_base(base, logits, MASK)
    p, q = base.softmax(-1), logits.softmax(-1)
    literal = sum((p[b, t] * (p[b, t] / q[b, t]).log()).sum() for b, t in [(0, 0), (0, 1), (0, 2), (1, 0)]) / 4
    assert_close(value, literal)
    assert_close(torch.autograd.grad(value, logits)[0], torch.autograd.grad(literal, logits)[0])


def test_kl_is_zero_between_equals_and_where_nothing_counts():
    logits = torch.randn(2, 4, 7)
    assert kl_to_base(logits, logits + 3, MASK).item() == pytest.approx(0, abs=1e-6)
    assert kl_to_base(logits, -logits, torch.zeros_like(MASK)).item() == 0


def test_relative_size_and_its_gradient_are_those_of_the_formula():
    changes = [torch.randn(2, 4, 5, requires_grad=True) for _ in range(3)]
    references = [torch.randn(2, 4, 5, requires_grad=True) for _ in range(3)]
    value = relative_size(changes, references, MASK)
    tokens = [(0, 0), (0, 1), (0, 2), (1, 0)]
    literal = sum(
        (change[place] ** 2).sum().sqrt() / (reference[place] ** 2).sum().sqrt()
        for change, reference in zip(changes, references, strict=True)
        for place in tokens
    ) / (3 * len(tokens))
    assert_close(value, literal)
    for own, expected in zip(
        torch.autograd.grad(value, changes), torch.autograd.grad(literal, changes, retain_graph=True), strict=True
    ):
        assert_close(own, expected)
    assert not any(reference.grad_fn for reference in references)
    with pytest.raises(RuntimeError, match=r"not have been used"):
        torch.autograd.grad(relative_size(changes, references, MASK), references)


def test_no_change_has_size_zero_and_a_finite_gradient():
    change = torch.zeros(2, 4, 5, requires_grad=True)
    value = relative_size([change], [torch.ones(2, 4, 5)], MASK)
    value.backward()
    assert value.item() == 0
    assert torch.equal(change.grad, torch.zeros_like(change))


@pytest.mark.parametrize("gate", ["head", "layer"])
def test_gate_size(gate):
    model = get_peft_model(make_llama(), ExcitorConfig(gate=gate, gate_init_std=1.0))
    gates = [layer.excitor_processor["default"].gate for layer in excitor_layers(model).values()]
    value = gate_size(model)
    literal = torch.stack([parameter.abs().mean() for parameter in gates]).mean()
    assert_close(value, literal)
    for own, expected in zip(torch.autograd.grad(value, gates), torch.autograd.grad(literal, gates), strict=True):
        assert_close(own, expected)


def test_recorded_keys_are_those_of_the_layers():
    model = get_peft_model(make_llama(), ExcitorConfig(init_weights=False))
    ids = torch.randint(3, 259, (2, 6))
    inputs: list[torch.Tensor] = []
    layers = list(excitor_layers(model).values())
    handles = [layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for layer in layers]
    with recorded_keys(model) as (plain, excited):
        model(input_ids=ids)
    for handle in handles:
        handle.remove()
    for layer, x, before, after in zip(layers, inputs, plain, excited, strict=True):
        assert torch.equal(before, layer.base_layer(x))
        assert_close(after - before, layer.term("default", x), atol=1e-5, rtol=1e-4)
    model(input_ids=ids)
    assert len(plain) == len(excited) == 3


def test_other_methods_have_neither_gates_nor_keys():
    model = get_peft_model(make_llama(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ExcitorError, match="carries no Excitor adapter"):
        gate_size(model)
    with pytest.raises(ExcitorError, match="carries no Excitor adapter"), recorded_keys(model):
        pass
