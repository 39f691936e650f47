"""EXCITOR_IMPL=cpp: the key of a few tokens in one call, against the equations in fp64."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import get_peft_model
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from compilers import needs_compiler
from excitor import ExcitorConfig, ExcitorLayer
from excitor.kernels import decode
from tiny import make_llama


TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SWITCHES = [
    {},
    {"num_local_prompts": 0},
    {"num_prompts": 0, "num_local_prompts": 3},
    {"num_local_prompts": 1, "null_prompt": True, "separate_values": True, "temperature": 0.5},
    {"num_local_prompts": 0, "null_prompt": True, "gate": "layer"},
    {"gate": "none", "generator": "mlp"},
]
pytestmark = needs_compiler


@pytest.fixture(autouse=True)
def cpp(under) -> None:
    under("cpp")


def make_layer(features: int = 10, heads: int = 3, head_dim: int = 5, **switches) -> ExcitorLayer:
    layer = ExcitorLayer(nn.Linear(features, heads * head_dim, bias=bool(features % 2)), head_dim=head_dim)
    layer.update_layer("default", ExcitorConfig(**({"r": 3, "num_prompts": 7, "init_weights": False} | switches)))
    return layer.eval()


def exact(layer: ExcitorLayer, x: Tensor) -> Tensor:
    """The key in fp64."""
    layer = copy.deepcopy(layer).double()
    generator, processor = layer.parts("default")
    return layer.base_layer(x.double()) + processor.term(x.double(), generator)


def is_one_call(layer: ExcitorLayer) -> bool:
    return getattr(layer.excitor_folded.fast_path.key, "func", None) is decode.extension().decode


def assert_one_call(layer: ExcitorLayer, x: Tensor, tolerance: float) -> None:
    """The fast path is the one call, and gives the key."""
    layer(x)
    assert is_one_call(layer)
    found, expected = layer.excitor_folded.fast_path.key(x, vars(layer)), exact(layer, x)
    assert found.dtype == x.dtype
    assert found.shape == expected.shape
    assert not found.numel() or (found.double() - expected).abs().max() <= tolerance * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_the_key_is_the_references(switches: dict, dtype: torch.dtype) -> None:
    layer = make_layer(**switches)
    layer.base_layer.to(dtype)
    assert_one_call(layer, torch.randn(2, 7, 10).to(dtype), TOLERANCE[dtype])


@settings(max_examples=40)
@given(
    tokens=st.sampled_from([0, 1, 2, 7, 9, 33, 64]),
    features=st.integers(1, 40),
    heads=st.integers(1, 5),
    head_dim=st.sampled_from([1, 3, 8, 20, 64, 72, 130]),
    rank=st.integers(1, 18),
    prompts=st.integers(0, 33),
    local=st.integers(0, 3),
    null=st.booleans(),
)
def test_any_shape(tokens, features, heads, head_dim, rank, prompts, local, null) -> None:
    counts = {"num_prompts": prompts, "num_local_prompts": local if prompts else max(local, 1)}
    layer = make_layer(features, heads, head_dim, r=rank, null_prompt=null, **counts)
    with torch.no_grad():
        assert_one_call(layer, torch.randn(tokens, features), 2e-5)


@torch.no_grad()
def test_large_scores_do_not_overflow() -> None:
    layer = make_layer(null_prompt=True)
    assert_one_call(layer, 1e4 * torch.randn(4, 10), 2e-5)


@torch.no_grad()
@pytest.mark.parametrize("bias", [torch.randn(3, 2)[:, 0], torch.full((1,), 3.0).expand(3), torch.full((3,), 200.0)])
def test_null_scores_however_they_lie_in_memory(bias: Tensor) -> None:
    layer = make_layer(null_prompt=True)
    layer.parts("default")[1].null_bias = nn.Parameter(bias)
    assert_one_call(layer, torch.randn(4, 10), 2e-5)


@torch.no_grad()
def test_a_weight_of_another_width_is_an_error_and_not_a_write_beyond_memory() -> None:
    layer, x = make_layer(), torch.randn(2, 10)
    layer(x)
    layer.base_layer.weight.data = torch.randn(1, 10)
    assert layer.excitor_folded.fast_path.key(x, vars(layer)) is None
    layer.base_layer.weight.data = torch.randn(16, 10)
    with pytest.raises(RuntimeError, match="size"):
        layer(x)


@torch.no_grad()
def test_what_it_is_not_for_goes_the_ordinary_way() -> None:
    layer = make_layer()
    layer(torch.randn(2, 10))
    fast = layer.excitor_folded.fast_path.key
    assert fast(torch.randn(decode.MOST_TOKENS, 10), vars(layer)) is not None
    strided = torch.randn(2, 20)[:, ::2]
    strange = [
        torch.randn(decode.MOST_TOKENS + 1, 10),
        strided,
        torch.randn(2, 10).double(),
        torch.randn(2, 10, device="meta"),
        torch.randn(2, 10).as_subclass(type("Own", (Tensor,), {})),
        torch.tensor(1.0),
        "text",
    ]
    assert [fast(x, vars(layer)) for x in strange] == [None] * len(strange)
    torch.testing.assert_close(layer(strided).double(), exact(layer, strided), atol=1e-5, rtol=1e-5)


class Operations(TorchDispatchMode):
    """Names of the operations that PyTorch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    """Names of the functions that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_transformations_see_every_operation() -> None:
    layer, x = make_layer(), torch.randn(4, 2, 10)
    layer(x)
    torch.testing.assert_close(torch.vmap(layer)(x), layer(x))
    assert is_one_call(layer)
    for recorder in (Operations(), Functions()):
        with recorder:
            layer(x)
        assert any("softmax" in name for name in recorder.names)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    _, expected = torch.func.jvp(layer, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, expected)


def half_the_adapter(layer: ExcitorLayer) -> None:
    for part in layer.parts("default"):
        part.to(torch.bfloat16)


def patch_forward(layer: ExcitorLayer) -> None:
    layer.base_layer.forward = lambda x: nn.Linear.forward(layer.base_layer, x) + 1


class OneMore(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def another_class(layer: ExcitorLayer) -> None:
    layer.base_layer = OneMore(10, 15)


def a_plain_weight(layer: ExcitorLayer) -> None:
    weight = layer.base_layer.weight.detach().clone()
    del layer.base_layer.weight
    layer.base_layer.weight = weight


def a_weight_of_its_own(layer: ExcitorLayer) -> None:
    layer.base_layer.weight = nn.Parameter(layer.base_layer.weight.as_subclass(type("Own", (Tensor,), {})))


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        *(lambda layer: layer.double(), half_the_adapter, patch_forward, another_class),
        *(a_weight_of_its_own, a_plain_weight),
    ],
    ids=["fp64", "adapter", "forward", "class", "weight", "plain weight"],
)
def test_a_projection_that_is_more_than_a_linear_map_is_called(change) -> None:
    layer = make_layer()
    before = layer(torch.ones(2, 10))
    assert is_one_call(layer)
    change(layer)
    x = torch.ones(2, 10, dtype=layer.base_layer.weight.dtype)
    for _ in range(2):
        after = layer(x)
        assert layer.excitor_folded.fast_path is not None
        assert not is_one_call(layer)
    expected = layer.base_layer(x) + layer.term("default", x).to(x.dtype)
    torch.testing.assert_close(after, expected, atol=1e-2, rtol=1e-2)  # a term in bf16 is rounded
    assert after.shape == before.shape


@torch.no_grad()
@pytest.mark.parametrize("place", ["method", "function", "class"])
def test_what_is_put_in_the_place_of_a_linear_map_is_called(monkeypatch, place: str) -> None:
    layer, x = make_layer(), torch.ones(2, 10)
    before, function = layer(x), nn.functional.linear
    assert is_one_call(layer)
    if place == "method":
        monkeypatch.setattr(nn.Linear, "forward", lambda module, x: function(x, module.weight) + 1)
    elif place == "function":
        monkeypatch.setattr(nn.functional, "linear", lambda *args: function(*args) + 1)
    else:
        layer.base_layer.__class__ = OneMore
    for _ in range(2):
        torch.testing.assert_close(layer(x), before + 1)
    layer.excitor_folded.clear()
    torch.testing.assert_close(layer(x), before + 1)
    assert not is_one_call(layer)


@torch.no_grad()
def test_hooks_on_all_modules_are_called() -> None:
    layer, called = make_layer(), []
    layer(torch.ones(2, 10))
    assert is_one_call(layer)
    handle = register_module_forward_hook(lambda module, args, output: called.append(module))
    try:
        layer(torch.ones(2, 10))
    finally:
        handle.remove()
    assert layer.base_layer in called


@torch.no_grad()
def test_a_model_generates_the_same_tokens(under) -> None:
    model = get_peft_model(make_llama(), ExcitorConfig(init_weights=False, task_type="CAUSAL_LM", r=4)).eval()
    tokens, generated = torch.arange(3, 25).view(2, 11), {}
    for implementation in ("eager", "cpp"):
        under(implementation)
        generated[implementation] = model.generate(input_ids=tokens, max_new_tokens=20, do_sample=False)
    layers = [module for module in model.modules() if isinstance(module, ExcitorLayer)]
    assert all(map(is_one_call, layers))
    assert torch.equal(generated["cpp"], generated["eager"])
