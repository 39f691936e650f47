import functools
import subprocess

import pytest
import torch
from torch import nn

from excitor import ExcitorConfig, ExcitorError, ExcitorLayer
from excitor.implementation import READ, VARIABLE, _compiled, backend, chosen
from excitor.kernels import decode
from excitor.visual import Pictures, seeing


@pytest.fixture(autouse=True)
def _read_again():
    READ.clear()
    yield
    READ.clear()


@pytest.mark.parametrize(("value", "folds"), [("auto", 1), ("", 1), ("eager", 0)])
def test_the_variable_decides_what_runs(monkeypatch, value: str, folds: int) -> None:
    monkeypatch.setenv(VARIABLE, value)
    layer = ExcitorLayer(nn.Linear(10, 12), head_dim=4)
    layer.update_layer("default", ExcitorConfig(init_weights=False))
    generator, processor = layer.parts("default")
    x, seen, fold = torch.randn(2, 7, 10), [], processor.fold
    monkeypatch.setattr(processor, "fold", lambda *args: seen.append(args) or fold(*args))
    torch.testing.assert_close(layer.term("default", x), processor.term(x, generator), atol=1e-5, rtol=1e-5)
    assert len(seen) == folds


def test_another_value_is_refused(monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, "cuda")
    with pytest.raises(ExcitorError, match="IMPL must be one of auto, cpp, triton, compile, eager, got 'cuda'"):
        chosen()


def test_triton_where_it_cannot_be_had_is_refused_and_the_other_choices_named(monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, "triton")
    monkeypatch.setattr("excitor.kernels.support.lacks", lambda folded, dtype: "it is missing")
    layer = ExcitorLayer(nn.Linear(10, 12), head_dim=4)
    layer.update_layer("default", ExcitorConfig())
    with pytest.raises(
        ExcitorError, match=r"=triton cannot be had: it is missing\..* are auto, cpp, compile, eager\."
    ):
        layer(torch.randn(2, 10))


@pytest.mark.parametrize(
    "reason", [RuntimeError("no ninja"), OSError("no folder"), subprocess.CalledProcessError(1, "where cl")], ids=str
)
def test_cpp_where_it_cannot_be_built_is_refused_with_the_reason(monkeypatch, reason: Exception) -> None:
    def load(*args, **kwargs):
        raise reason

    monkeypatch.setenv(VARIABLE, "cpp")
    decode.extension.cache_clear()
    monkeypatch.setattr("torch.utils.cpp_extension.load", load)
    layer = ExcitorLayer(nn.Linear(10, 12), head_dim=4)
    layer.update_layer("default", ExcitorConfig())
    expected = f"=cpp cannot be had: .*compiler, ninja and setuptools.*: {reason}.* are auto, triton"
    try:
        with torch.no_grad(), pytest.raises(ExcitorError, match=expected):
            layer.eval()(torch.randn(2, 10))
    finally:
        decode.extension.cache_clear()


def test_cpp_on_another_device_is_refused(monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, "cpp")
    layer = ExcitorLayer(nn.Linear(10, 12), head_dim=4)
    layer.update_layer("default", ExcitorConfig())
    generator, processor = layer.parts("default")

    class Elsewhere:
        device, dtype = torch.device("cuda"), torch.float32

    folded = processor.fold(generator)._replace(values=Elsewhere())
    with pytest.raises(ExcitorError, match=r"=cpp cannot be had: the tensors are on cuda.* are auto, triton"):
        backend(folded, torch.float32)


@pytest.mark.parametrize("null_prompt", [False, True])
def test_compiled_operations_give_the_same_key_and_gradients(monkeypatch, null_prompt: bool) -> None:
    """With dynamo's own backend, as the default one takes half a minute; the code that is compiled is the same."""
    _compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    layer = ExcitorLayer(nn.Linear(10, 12), head_dim=4)
    layer.update_layer("default", ExcitorConfig(init_weights=False, r=3, num_prompts=5, null_prompt=null_prompt))
    compiles, results = torch._dynamo.utils.counters["stats"], {}
    for implementation in ("compile", "eager"):
        monkeypatch.setenv(VARIABLE, implementation)
        READ.clear()
        before = compiles["unique_graphs"]
        for tokens in (7, 9, 12):
            x = torch.linspace(-1, 1, 2 * tokens * 10).view(2, tokens, 10).requires_grad_()
            out = layer(x)
            leaves = [x, *(p for name, p in layer.named_parameters() if "excitor_" in name)]
            results[implementation, tokens] = [out, *torch.autograd.grad(out.square().sum(), leaves)]
        assert (compiles["unique_graphs"] > before) == (implementation == "compile")
    for tokens in (7, 9, 12):
        for found, expected in zip(results["compile", tokens], results["eager", tokens], strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    _compiled.cache_clear()


def test_compiled_operations_see_the_same_pictures(monkeypatch) -> None:
    """Layers of several sizes between the forward and the backward pass of one, whose graph has to be found again."""
    torch._dynamo.reset()
    _compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    layer = ExcitorLayer(nn.Linear(10, 12), head_dim=4)
    layer.update_layer("default", ExcitorConfig(init_weights=False, r=3, num_prompts=5, vision_width=6))
    compiles, results = torch._dynamo.utils.counters["stats"], {}
    for implementation in ("compile", "eager"):
        monkeypatch.setenv(VARIABLE, implementation)
        READ.clear()
        before = compiles["unique_graphs"]
        inputs = [torch.linspace(-1, 1, 2 * tokens * 10).view(2, tokens, 10).requires_grad_() for tokens in (7, 9, 12)]
        pictures = [Pictures(torch.linspace(-1, 1, 2 * n * 6).view(2, n, 6), mask) for n, mask in seen_sizes()]
        outs = []
        for x, seen in zip(inputs, pictures, strict=True):
            with seeing(seen):
                outs.append(layer(x))
                with torch.no_grad():
                    torch.testing.assert_close(layer(x), outs[-1], atol=1e-5, rtol=1e-5)
        leaves = [*inputs, *(p for name, p in layer.named_parameters() if "excitor_" in name)]
        results[implementation] = [*outs, *torch.autograd.grad(sum(out.square().sum() for out in outs), leaves)]
        assert (compiles["unique_graphs"] > before) == (implementation == "compile")
    for found, expected in zip(results["compile"], results["eager"], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    _compiled.cache_clear()


def seen_sizes() -> list[tuple[int, torch.Tensor | None]]:
    return [(3, None), (4, None), (5, torch.tensor([[True, False, True, True, False], 5 * [False]]))]
