"""The fast path gives what the ordinary one gives, and only where nothing has changed since it was found."""

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from compilers import needs_compiler
from excitor import ExcitorConfig, ExcitorLayer, set_strength
from excitor.implementation import READ, VARIABLE
from excitor.placement import InProjection
from parameter_changes import CHANGES


X = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True, params=["auto", pytest.param("cpp", marks=needs_compiler)])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(VARIABLE, request.param)
    READ.clear()
    yield request.param
    READ.clear()


def make_layer(base: nn.Module | None = None, **switches) -> ExcitorLayer:
    layer = ExcitorLayer(base or nn.Linear(10, 12), head_dim=4)
    for name in ("default", "other"):
        layer.update_layer(name, ExcitorConfig(**({"r": 3, "num_prompts": 5, "init_weights": False} | switches)))
    return layer.eval()


def found(layer: ExcitorLayer) -> Callable:
    """The fast path, after the call that finds it."""
    with torch.no_grad():
        layer(X)
    assert layer.excitor_folded.fast_path is not None
    return layer.excitor_folded.fast_path


def taken(layer: ExcitorLayer, x: Tensor = X) -> Tensor | None:
    """What the fast path gives."""
    fast = layer.excitor_folded.fast_path
    return None if fast is None else fast.key(x, vars(layer))


def written(layer: ExcitorLayer, x: Tensor = X) -> Tensor:
    """The key by the equations as they are written."""
    with torch.no_grad():
        key = layer.get_base_layer()(x)
        for name in layer.active_adapters:
            generator, processor = layer.parts(name)
            key = key + layer.excitor_strength[name] * processor.term(x, generator)
    return key


@torch.no_grad()
def test_it_is_found_once_and_taken_again() -> None:
    layer = make_layer()
    fast = found(layer)
    assert layer.eval().excitor_folded.fast_path is fast
    for x in (X, X[:1], X[0], X[0, 0], X[:, :0], X.flip(0)):
        key = taken(layer, x)
        assert key is not None
        torch.testing.assert_close(key, written(layer, x), atol=1e-5, rtol=1e-5)
        assert torch.equal(layer(x), key)
    assert layer.excitor_folded.fast_path is fast


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_parameters_that_change_close_it(change: Callable[[ExcitorLayer], None]) -> None:
    layer = make_layer()
    found(layer)
    before = written(layer)
    change(layer)
    with torch.no_grad():
        assert taken(layer) is None
        after = layer(X)
    torch.testing.assert_close(after, written(layer), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(after, before)


def lengthen_the_list_of_active_adapters(layer: ExcitorLayer) -> None:
    layer.active_adapters.append("other")


def replace_the_strengths(layer: ExcitorLayer) -> None:
    layer.excitor_strength = layer.excitor_strength | {"default": 2.0}


def watch(layer: ExcitorLayer) -> None:
    layer.placement.watch = lambda before, after: None


def replace_the_base(layer: ExcitorLayer) -> None:
    layer.base_layer = nn.Linear(10, 12)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.set_adapter("other"),
        lambda layer: layer.set_adapter(["default", "other"]),
        lambda layer: layer.enable_adapters(False),
        lambda layer: layer.delete_adapter("default"),
        lambda layer: set_strength(layer, 0.5),
        lambda layer: layer.update_layer("default", ExcitorConfig(r=2, num_prompts=4, init_weights=False)),
        lambda layer: layer.double().float(),
        lambda layer: layer.train(),
        lengthen_the_list_of_active_adapters,
        replace_the_strengths,
        watch,
        replace_the_base,
    ],
    ids=[
        *("another", "several", "off", "deleted", "strength", "made anew", "cast", "training"),
        *("list", "strengths", "watched", "base"),
    ],
)
@pytest.mark.filterwarnings("ignore:Adapter default was active")
def test_a_layer_that_changes_closes_it(change: Callable[[ExcitorLayer], None]) -> None:
    layer = make_layer()
    found(layer)
    change(layer)
    with torch.no_grad():
        assert taken(layer) is None
        off = layer._disable_adapters
        torch.testing.assert_close(
            layer(X), layer.get_base_layer()(X) if off else written(layer), atol=1e-5, rtol=1e-5
        )


def test_gradients_and_autocast_go_the_ordinary_way() -> None:
    layer = make_layer()
    found(layer)
    with torch.inference_mode():
        assert taken(layer) is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert taken(layer) is None
        assert layer(X).dtype == torch.bfloat16
    assert taken(layer) is None
    assert layer(X).requires_grad


@torch.no_grad()
def test_there_is_none_for_more_than_one_adapter_or_a_part_of_one() -> None:
    several, weaker, none = make_layer(), make_layer(), make_layer()
    several.set_adapter(["default", "other"])
    set_strength(weaker, 0.5)
    none.enable_adapters(False)
    seeing = ExcitorLayer(nn.Linear(10, 12), head_dim=4).eval()
    seeing.update_layer("default", ExcitorConfig(init_weights=False, vision_width=6))
    fused = ExcitorLayer(nn.Linear(10, 36), 4, InProjection(36, 1, 12, 12)).eval()
    fused.update_layer("default", ExcitorConfig(init_weights=False))
    for layer in (several, weaker, none, seeing, fused):
        layer(X)
        assert layer.excitor_folded.fast_path is None


def parametrize(processor: nn.Module, name: str) -> Tensor:
    torch.nn.utils.parametrize.register_parametrization(processor, name, nn.Identity())
    return processor.parametrizations[name].original


def plain_tensor(processor: nn.Module, name: str) -> Tensor:
    tensor = getattr(processor, name).detach().clone()
    delattr(processor, name)
    setattr(processor, name, tensor)
    return tensor


@torch.no_grad()
@pytest.mark.parametrize("name", ["A", "B"])
@pytest.mark.parametrize("replace", [parametrize, plain_tensor])
def test_there_is_none_for_what_is_no_parameter(replace: Callable, name: str) -> None:
    """It changes unseen."""
    layer = make_layer()
    found(layer)
    tensor = replace(layer.parts("default")[1], name)
    for _ in range(2):
        layer(X)
        assert layer.excitor_folded.fast_path is None
    tensor.data.add_(1)
    torch.testing.assert_close(layer(X), written(layer), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_input_that_it_is_not_for_leaves_it_open() -> None:
    layer = make_layer()
    found(layer)
    fast = layer.excitor_folded.fast_path
    with torch.autocast("cpu", torch.bfloat16):
        layer(X)
    layer(torch.randn(100, 20)[:, ::2])
    assert layer.excitor_folded.fast_path is fast


def test_an_adapter_that_learned_is_trusted_again_after_a_word() -> None:
    layer = make_layer()
    layer(X).sum().backward()
    layer.zero_grad()
    with torch.no_grad():
        layer(X)
        assert layer.excitor_folded.fast_path is None
        layer.eval()(X)
    assert layer.excitor_folded.fast_path is not None


@torch.no_grad()
def test_another_implementation_closes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make_layer()
    found(layer)
    monkeypatch.setenv(VARIABLE, "eager")
    READ.clear()
    layer(X)
    assert taken(layer) is None


@torch.no_grad()
def test_the_same_implementation_read_again_leaves_it_open() -> None:
    layer = make_layer()
    fast = found(layer)
    READ.clear()
    layer(X)
    assert layer.excitor_folded.fast_path is fast
    assert taken(layer) is not None


@torch.no_grad()
def test_hooks_on_the_base_are_called() -> None:
    layer = make_layer()
    found(layer)
    layer.base_layer.register_forward_hook(lambda module, args, output: output + 1)
    torch.testing.assert_close(layer(X), written(layer), atol=1e-5, rtol=1e-5)
    assert written(layer).sub(X @ layer.base_layer.weight.T).mean() > 0.5


@torch.no_grad()
def test_a_copy_finds_its_own(implementation: str) -> None:
    layer = make_layer()
    found(layer)
    copied = copy.deepcopy(layer)
    assert copied.excitor_folded.fast_path is None
    copied.parts("default")[1].gate.add_(1)
    for each in (copied, layer):
        torch.testing.assert_close(each(X), written(each), atol=1e-5, rtol=1e-5)
    replica = layer._replicate_for_data_parallel()  # shares all but its modules' parameters
    assert layer.excitor_folded.fast_path.key(X, vars(replica)) is None


def test_a_layer_does_not_hold_itself() -> None:
    layer = make_layer()
    found(layer)
    weight = weakref.ref(layer.base_layer.weight)
    gc.collect()
    gc.disable()
    try:
        del layer
        assert weight() is None
    finally:
        gc.enable()


def test_a_layer_that_its_base_knows_is_collected() -> None:
    layer = make_layer()
    found(layer)
    layer.base_layer.register_forward_hook(lambda module, args, output, layer=layer: None)
    weight = weakref.ref(layer.base_layer.weight)
    del layer
    gc.collect()
    assert weight() is None


@torch.no_grad()
def test_the_memory_of_a_deleted_adapter_is_given_back() -> None:
    layer = make_layer()
    found(layer)
    gate = weakref.ref(layer.parts("default")[1].gate)
    layer.set_adapter("other")
    layer.delete_adapter("default")
    gc.collect()
    assert gate() is None


@torch.no_grad()
def test_a_compiler_does_not_see_it() -> None:
    layer = make_layer()
    found(layer)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), written(layer), atol=1e-5, rtol=1e-5)
