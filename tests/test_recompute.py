"""The term that trains: the reference's values and gradients, from far fewer tensors kept for the backward pass."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.func import functional_call

from excitor import ExcitorConfig, ExcitorLayer
from excitor.diagnostics.saved import saved_tensors
from excitor.recompute import adapter_term


SWITCHES = [
    {"num_local_prompts": 0},
    {},
    {"num_prompts": 0, "num_local_prompts": 3},
    {"num_local_prompts": 0, "null_prompt": True, "gate": "layer"},
    {"separate_values": True, "null_prompt": True, "temperature": 0.5},
    {"generator": "mlp", "separate_values": True, "gate": "none", "num_local_prompts": 1},
]
EVERY_SWITCH = pytest.mark.parametrize("switches", SWITCHES, ids=str)


def make_layer(dtype: torch.dtype = torch.float64, **switches) -> ExcitorLayer:
    layer = ExcitorLayer(nn.Linear(10, 12, dtype=dtype), head_dim=4)
    fields = {"r": 3, "num_prompts": 5, "init_weights": False}
    layer.update_layer("default", ExcitorConfig(**(fields | switches)))
    return layer


def recomputed(layer: ExcitorLayer, x: Tensor) -> Tensor:
    generator, processor = layer.parts("default")
    return adapter_term(x, processor.A, processor.fold(generator))


def reference(layer: ExcitorLayer, x: Tensor) -> Tensor:
    generator, processor = layer.parts("default")
    return processor.term(x, generator)


def parameters(layer: ExcitorLayer) -> dict[str, nn.Parameter]:
    return {name: p for name, p in layer.named_parameters() if "excitor_" in name and p.numel()}


@EVERY_SWITCH
@pytest.mark.parametrize("shape", [(10,), (1, 10), (0, 10), (2, 7, 10), (2, 1, 3, 10)], ids=str)
def test_values_and_every_gradient_are_the_references(switches: dict, shape: tuple[int, ...]) -> None:
    layer = make_layer(**switches)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    leaves = {"x": x} | parameters(layer)
    expected, found = reference(layer, x), recomputed(layer, x)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    with torch.no_grad():
        assert torch.equal(recomputed(layer, x), found)
    grad = torch.randn_like(expected)
    gradients = torch.autograd.grad(found, list(leaves.values()), grad)
    for name, own, other in zip(
        leaves, gradients, torch.autograd.grad(expected, list(leaves.values()), grad), strict=True
    ):
        torch.testing.assert_close(own, other, atol=1e-12, rtol=0, msg=name)
        assert x.numel() == 0 or own.abs().sum() > 0, name


@EVERY_SWITCH
def test_gradients_and_their_gradients_are_those_of_small_steps(switches: dict) -> None:
    layer = make_layer(**switches)
    x = torch.randn(2, 3, 10, dtype=torch.float64, requires_grad=True)
    leaves = [x, *parameters(layer).values()]

    def term(*_: Tensor) -> Tensor:
        return recomputed(layer, x)

    assert torch.autograd.gradcheck(term, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(term, leaves, fast_mode=True)


def test_only_what_trains_gets_a_gradient() -> None:
    layer = make_layer()
    generator, processor = layer.parts("default")
    generator.requires_grad_(False)
    x = torch.randn(2, 7, 10, dtype=torch.float64)
    recomputed(layer, x).sum().backward()
    assert {name for name, p in parameters(layer).items() if p.grad is not None} == {
        f"excitor_processor.default.{name}" for name in ("A", "B", "gate")
    }
    for frozen in (layer, generator, processor):
        frozen.requires_grad_(False)
    x.requires_grad_()
    (found,) = torch.autograd.grad(recomputed(layer, x).sum(), x)
    torch.testing.assert_close(found, torch.autograd.grad(reference(layer, x).sum(), x)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_input_gets_the_gradients_of_its_own_values(dtype: torch.dtype) -> None:
    layer = make_layer(torch.float32)
    x = torch.randn(2, 7, 10).to(dtype).requires_grad_()
    exact = x.detach().float().requires_grad_()
    found, expected = recomputed(layer, x), reference(layer, exact)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    leaves = list(parameters(layer).values())
    own = torch.autograd.grad(found, [x, *leaves], grad)
    other = torch.autograd.grad(expected, [exact, *leaves], grad)
    assert own[0].dtype == dtype
    torch.testing.assert_close(own[0], other[0].to(dtype))
    torch.testing.assert_close(own[1:], other[1:])


def test_under_autocast_the_product_with_the_input_alone_is_rounded() -> None:
    layer = make_layer(torch.float32, separate_values=True, null_prompt=True)
    x = torch.randn(2, 7, 10, requires_grad=True)
    leaves = [x, *parameters(layer).values()]
    expected = recomputed(layer, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = recomputed(layer, x)
        with torch.no_grad():
            assert torch.equal(recomputed(layer, x), found)
        gradients = torch.autograd.grad(found.sum(), leaves)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    # Four roundings to 8 bits on the way to z, of numbers of size one, seen through a softmax.
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)
    for own, other in zip(gradients, torch.autograd.grad(expected.sum(), leaves), strict=True):
        assert (own - other).norm() < 0.05 * other.norm()


class Projections(nn.Module):
    """Those of an attention layer with grouped keys."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.q_proj = nn.Linear(768, 768, dtype=dtype)
        self.k_proj = nn.Linear(768, 256, dtype=dtype)
        self.v_proj = nn.Linear(768, 256, dtype=dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.q_proj(x), self.k_proj(x), self.v_proj(x)


def saved_per_token(model: nn.Module, dtype: torch.dtype) -> float:
    sizes = []
    for length in (64, 128):
        x = torch.randn(2, length, 768, dtype=dtype, requires_grad=True)
        with saved_tensors(model) as saved:
            outputs = model(x)
        sizes.append(saved.bytes)
        del outputs
    return (sizes[1] - sizes[0]) / 128


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_token_keeps_its_input_and_r_numbers_which_is_less_than_loras(dtype: torch.dtype) -> None:
    config = ExcitorConfig(target_modules=["k_proj"], head_dim=64)
    excitor = get_peft_model(Projections(dtype), config)
    lora = get_peft_model(Projections(dtype), LoraConfig(target_modules=["q_proj", "v_proj"], r=13))
    sizes = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (excitor, lora)]
    assert 1 < sizes[1] / sizes[0] < 1.05
    assert saved_per_token(excitor, dtype) == 768 * dtype.itemsize + 16 * 4
    assert saved_per_token(excitor, dtype) < saved_per_token(lora, dtype)


def test_the_counter_sees_what_the_plain_form_keeps() -> None:
    """The query, the scores and the extra key at least; else the test above would pass for a blind counter."""
    layer = ExcitorLayer(nn.Linear(768, 256), head_dim=64)
    layer.update_layer("default", ExcitorConfig())
    x = torch.randn(2, 64, 768, requires_grad=True)
    with saved_tensors(layer) as saved:
        outputs = reference(layer, x)
    assert saved.bytes / 128 > 4 * (768 + 256 + 4 * 32 + 256)
    assert outputs.shape == (2, 64, 256)


def test_functional_call_reaches_the_term() -> None:
    layer, x = make_layer(), torch.randn(2, 7, 10, dtype=torch.float64)
    zeroed = {name: torch.zeros_like(p) for name, p in parameters(layer).items() if name.endswith("gate")}
    torch.testing.assert_close(functional_call(layer, zeroed, (x,)), layer.base_layer(x))
