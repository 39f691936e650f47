"""EXCITOR_IMPL=triton in adapted layers, wherever the key is."""

import pytest
import torch
from torch import Tensor, nn

from excitor import ExcitorConfig, ExcitorLayer, set_strength
from excitor.diagnostics.saved import saved_tensors
from excitor.placement import BehindNorm, InProjection, Placement


pytest.importorskip("triton")

from excitor.kernels import launch


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Tensor | None]:
    """The keys, or None for a term alone, that the forward kernel was given."""
    from excitor import implementation

    keys, original = [], launch.excited

    def excited(z, folded, key, dtype):
        keys.append(key)
        return original(z, folded, key, dtype)

    monkeypatch.setattr(launch, "excited", excited)
    implementation._fused.cache_clear()
    yield keys
    implementation._fused.cache_clear()


def make_layer(placement: Placement | None = None, norm: nn.Module | None = None) -> ExcitorLayer:
    out_features = 12 if placement is None or norm is not None else 36
    layer = ExcitorLayer(nn.Linear(10, out_features), 4, placement, norm)
    for name in ("default", "other"):
        layer.update_layer(name, ExcitorConfig(init_weights=False, r=3, num_prompts=5))
    return layer.to(DEVICE)


def both_ways(layer: ExcitorLayer, under, run=None) -> tuple[list[Tensor], list[Tensor]]:
    """Output and gradients by the kernels and by the equations as they are written."""
    x = torch.randn(2, 7, 10, device=DEVICE, requires_grad=True)
    results = []
    for implementation in ("triton", "eager"):
        under(implementation)
        layer.zero_grad()
        out = (run or layer)(x)
        parameters = [p for name, p in layer.named_parameters() if "excitor_" in name and "default" in name]
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *parameters])])
    return results[0], results[1]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_a_projection_that_gives_the_key_adds_within_the_kernel(under, launched) -> None:
    layer = make_layer()
    assert_same(*both_ways(layer, under))
    assert [key is None for key in launched] == [False]


def test_several_adapters_are_added_one_after_the_other(under, launched) -> None:
    layer = make_layer()
    layer.set_adapter(["default", "other"])
    assert_same(*both_ways(layer, under))
    assert [key is None for key in launched] == [False, False]


def test_strength_scales_a_term_that_comes_alone(under, launched) -> None:
    layer = make_layer()
    set_strength(layer, 0.5)
    assert_same(*both_ways(layer, under))
    assert [key is None for key in launched] == [True]


@pytest.mark.parametrize("groups", [1, 3])
def test_a_key_among_queries_and_values_gets_the_term(under, launched, groups: int) -> None:
    assert_same(*both_ways(make_layer(InProjection(36, groups, 12 // groups, 12 // groups)), under))
    assert [key is None for key in launched] == [True]


def test_so_does_a_key_behind_a_norm(under, launched) -> None:
    norm = nn.LayerNorm(12, device=DEVICE)
    layer = make_layer(BehindNorm(12, "flat"), norm)
    assert_same(*both_ways(layer, under, lambda x: norm(layer(x))))
    assert [key is None for key in launched] == [True]


def test_watchers_see_the_key_before_and_after(under) -> None:
    layer, seen = make_layer(), []
    under("triton")
    layer.placement.watch = lambda before, after: seen.append((before, after))
    x = torch.randn(2, 7, 10, device=DEVICE)
    after = layer(x)
    assert torch.equal(seen[0][0], layer.base_layer(x))
    assert torch.equal(seen[0][1], after)


def test_it_keeps_the_input_and_r_numbers_a_token(under) -> None:
    layer = make_layer()
    under("triton")
    sizes = []
    for tokens in (64, 128):
        x = torch.randn(tokens, 10, device=DEVICE, requires_grad=True)
        with saved_tensors(layer) as saved:
            out = layer(x)
        sizes.append(saved.bytes)
        del out
    assert (sizes[1] - sizes[0]) / 64 == 4 * (10 + 3)


def test_an_adapter_in_double_precision_is_refused(under) -> None:
    from excitor import ExcitorError

    layer = make_layer().double()
    under("triton")
    with pytest.raises(ExcitorError, match=r"_IMPL=triton cannot be had: .*float64.* auto, cpp, compile, eager\."):
        layer(torch.randn(2, 10, device=DEVICE, dtype=torch.float64))


def test_a_compiler_sees_the_equations(under, launched) -> None:
    torch._dynamo.reset()
    layer = make_layer().eval()
    under("triton")
    x = torch.randn(2, 7, 10, device=DEVICE)
    with torch.no_grad():
        found = torch.compile(layer, backend="eager", fullgraph=True)(x)
        assert not launched
        torch.testing.assert_close(found, layer(x), atol=1e-4, rtol=1e-4)


def test_auto_leaves_them_alone(under, launched) -> None:
    under("auto")
    make_layer().to(DEVICE)(torch.randn(2, 7, 10, device=DEVICE))
    assert not launched
