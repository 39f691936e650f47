"""The fused kernels against the equations in fp64: on a GPU where there is one, else in Triton's interpreter."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from excitor import ExcitorConfig, ExcitorLayer
from excitor.folded import Folded, folded_gradients, folded_term
from excitor.recompute import Backend, adapter_term
from kernel_checks import DEVICE, TOLERANCE, amid_nans, assert_near, make_folded, uninitialised_memory_is_nan


pytest.importorskip("triton")

from excitor.kernels import launch, launch_seeing


TRITON = Backend(launch.excited, launch.gradients, launch_seeing.excited, launch_seeing.gradients)
SWITCHES = [
    {},
    {"num_local_prompts": 0},
    {"num_prompts": 0, "num_local_prompts": 3},
    {"num_local_prompts": 1, "null_prompt": True, "separate_values": True, "temperature": 0.5},
    {"num_local_prompts": 0, "null_prompt": True, "gate": "layer"},
]


def make_layer(heads: int = 3, head_dim: int = 5, **switches) -> ExcitorLayer:
    """In fp64, with parameters that fp32 can hold."""
    layer = ExcitorLayer(nn.Linear(10, heads * head_dim), head_dim=head_dim)
    layer.update_layer("default", ExcitorConfig(**({"r": 3, "num_prompts": 7, "init_weights": False} | switches)))
    return layer.to(DEVICE, torch.float64)


def parameters(layer: ExcitorLayer) -> dict[str, nn.Parameter]:
    return {name: p for name, p in layer.named_parameters() if "excitor_" in name and p.numel()}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_the_key_and_every_gradient_are_the_references(switches: dict, dtype: torch.dtype) -> None:
    layer = make_layer(**switches)
    x = torch.randn(2, 13, 10, device=DEVICE).to(dtype).requires_grad_()
    key = torch.randn(2, 13, 15, device=DEVICE).to(dtype).requires_grad_()
    grad = torch.randn(2, 13, 15, device=DEVICE).to(dtype)

    generator, processor = layer.parts("default")
    exact = x.detach().double().requires_grad_()
    expected = processor.term(exact, generator)
    gradients = torch.autograd.grad(expected, [exact, *parameters(layer).values()], grad.double())

    single = copy.deepcopy(layer).float()
    generator, processor = single.parts("default")
    found = adapter_term(x, processor.A, processor.fold(generator), key, TRITON)
    assert found.dtype == dtype
    assert_near(found, key.double() + expected, TOLERANCE[dtype])
    own = torch.autograd.grad(found, [x, *parameters(single).values(), key], grad)
    assert torch.equal(own[-1], grad)
    for name, ours, theirs in zip(["x", *parameters(layer)], own, gradients, strict=False):
        assert theirs.abs().max() > 0, name
        assert_near(ours, theirs, TOLERANCE[dtype], name)


@settings(max_examples=25)
@given(
    tokens=st.sampled_from([0, 1, 15, 16, 17, 33, 65, 130]),
    heads=st.integers(1, 3),
    head_dim=st.sampled_from([1, 7, 16, 24, 80]),
    rank=st.sampled_from([1, 3, 16, 20]),
    prompts=st.sampled_from([0, 1, 16, 30]),
    local=st.integers(0, 3),
    null=st.booleans(),
)
def test_any_shape(tokens: int, heads: int, head_dim: int, rank: int, prompts: int, local: int, null: bool) -> None:
    folded = make_folded(heads, head_dim, rank, prompts, local or int(not prompts), null)
    z = torch.randn(tokens, rank, device=DEVICE)
    grad = torch.randn(tokens, heads * head_dim, device=DEVICE)
    exact = Folded(*(None if t is None else t.double() for t in folded[:3]), *folded[3:])
    expected = folded_term(z.double(), exact), *folded_gradients((True, True, True, null), z.double(), exact, grad)
    found = launch.excited(z, folded, None, torch.float32), *launch.gradients((True,) * 4, z, folded, grad)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None and theirs.numel():
            assert_near(ours, theirs, 1e-4)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_everything_is_written_and_nothing_read_beside(dtype: torch.dtype) -> None:
    folded = make_folded(heads=3, head_dim=20, rank=5, prompts=9, local=2, null=True)
    z, key, grad = (torch.randn(37, width, device=DEVICE) for width in (5, 60, 60))
    key, grad = key.to(dtype), grad.to(dtype)

    def run(z: Tensor, folded: Folded, key: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
        return launch.excited(z, folded, key, dtype), *launch.gradients((True,) * 4, z, folded, grad)

    expected = run(z, folded, key, grad)
    poisoned = Folded(*(amid_nans(t) for t in folded[:3] if t is not None), *folded[3:])
    with uninitialised_memory_is_nan():
        found = run(amid_nans(z), poisoned, amid_nans(key), amid_nans(grad))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours is not None
        assert ours.isfinite().all()
        assert torch.equal(ours, theirs)  # the order of sums is fixed, too


def test_huge_scores_do_not_overflow() -> None:
    folded = make_folded(heads=2, head_dim=8, rank=4, prompts=6, local=1, null=True)
    z = 200 * torch.randn(20, 4, device=DEVICE)
    exact = Folded(*(None if t is None else t.double() for t in folded[:3]), *folded[3:])
    assert_near(launch.excited(z, folded, None, torch.float32), folded_term(z.double(), exact), 1e-4)


def test_only_what_is_needed_comes_back() -> None:
    folded = make_folded(heads=2, head_dim=8, rank=4, prompts=6, local=1, null=True)
    z, grad = torch.randn(20, 4, device=DEVICE), torch.randn(20, 16, device=DEVICE)
    found = launch.gradients((False, True, False, True), z, folded, grad)
    assert [gradient is None for gradient in found] == [True, False, True, False]


def test_gradients_of_gradients() -> None:
    layer = make_layer().float()
    generator, processor = layer.parts("default")
    x = torch.randn(5, 10, device=DEVICE, requires_grad=True)
    found = []
    for backend in ({"backend": TRITON}, {}):
        out = adapter_term(x, processor.A, processor.fold(generator), **backend)
        (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [x, *parameters(layer).values()]))
    for ours, theirs in zip(*found, strict=True):
        assert_near(ours, theirs.double(), 1e-3)


@pytest.mark.gpu
def test_a_cuda_graph_replays_them() -> None:
    folded = make_folded(heads=3, head_dim=20, rank=5, prompts=9, local=2, null=True)
    z, key = torch.randn(37, 5, device=DEVICE), torch.randn(37, 60, device=DEVICE)
    launch.excited(z, folded, key, key.dtype)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = launch.excited(z, folded, key, key.dtype)
    z.normal_()
    graph.replay()
    assert torch.equal(out, launch.excited(z, folded, key, key.dtype))
