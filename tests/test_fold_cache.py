"""What is folded is used again, and never after a parameter has changed, in whatever way."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
from peft import get_peft_model
from torch import nn

from excitor import ExcitorConfig, ExcitorLayer, hotswap_adapter, set_strength
from excitor.layer import excitor_layers
from excitor.materialize import materialize
from excitor.processor import PromptProcessor
from parameter_changes import CHANGES
from tiny import make_llama


X = torch.randn(2, 7, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def make_layer(**switches) -> ExcitorLayer:
    layer = ExcitorLayer(nn.Linear(10, 256, dtype=torch.float64), head_dim=64)
    layer.update_layer("default", ExcitorConfig(**({"r": 4, "init_weights": False} | switches)))
    return layer.eval()


@pytest.fixture
def folds(monkeypatch: pytest.MonkeyPatch) -> list[PromptProcessor]:
    """Grows with each fold."""
    counted, original = [], PromptProcessor.fold

    def fold(self: PromptProcessor, generator):
        counted.append(self)
        return original(self, generator)

    monkeypatch.setattr(PromptProcessor, "fold", fold)
    return counted


def check(layer: ExcitorLayer) -> None:
    """The cached term is the reference's, now."""
    generator, processor = layer.parts("default")
    with torch.no_grad():
        torch.testing.assert_close(layer.term("default", X), processor.term(X, generator))


def test_it_is_folded_once(folds: list) -> None:
    layer = make_layer(null_prompt=True)
    for _ in range(3):
        check(layer)
    set_strength(layer, 0.5)
    with torch.inference_mode():
        layer(X)
    assert len(folds) == 1


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_it_is_folded_again_after(change: Callable[[ExcitorLayer], None]) -> None:
    layer = make_layer()
    with torch.no_grad():
        before = layer.term("default", X)
    change(layer)
    check(layer)
    with torch.no_grad():
        assert not torch.allclose(layer.term("default", X), before)


def test_a_cast_is_seen() -> None:
    layer = make_layer()
    with torch.no_grad():
        exact = layer.term("default", X)
        layer.float()
        rounded = layer.term("default", X.float())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.double(), exact, atol=1e-3, rtol=1e-3)


def test_memory_given_back_and_taken_again_is_no_reason_to_trust_it() -> None:
    """A new tensor may come to lie where the old one was, with the same version."""
    layer = make_layer()
    processor = layer.parts("default")[1]
    for _ in range(20):
        check(layer)
        processor.B.data = torch.randn(4, 256, dtype=torch.float64)


def test_writing_through_data_needs_a_word_or_a_switch_of_mode() -> None:
    for tell in (lambda layer: layer.excitor_folded.clear(), lambda layer: layer.train().eval()):
        layer = make_layer()
        check(layer)
        layer.parts("default")[1].B.data.add_(1)
        tell(layer)
        check(layer)


def test_a_fused_step_behind_a_glance_in_evaluation_mode_is_no_surprise() -> None:
    """It changes parameters, and neither their addresses nor their versions."""
    layer = make_layer()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        layer(X).square().sum().backward()
        check(layer)
        optimizer.step()
        check(layer)


def test_nothing_is_kept_while_a_gradient_waits_for_its_step() -> None:
    layer = make_layer().train()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    layer(X).square().sum().backward()
    layer.eval()
    check(layer)
    optimizer.step()
    check(layer)


def test_what_is_swapped_while_it_is_folded_is_folded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, original = make_layer(), PromptProcessor.fold

    def fold(self: PromptProcessor, generator):
        folded = original(self, generator)
        with torch.no_grad():  # another thread
            self.gate.add_(1)
        return folded

    monkeypatch.setattr(PromptProcessor, "fold", fold)
    with torch.no_grad():
        layer.term("default", X)
    monkeypatch.undo()
    check(layer)


def test_a_replica_reads_its_own_parameters_and_passes_gradients_on() -> None:
    """``nn.DataParallel`` makes shallow copies whose parameters are plain attributes."""

    def replica(module: nn.Module) -> nn.Module:
        made = module._replicate_for_data_parallel()
        for name, child in module._modules.items():
            made._modules[name] = None if child is None else replica(child)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                setattr(made, name, parameter.view_as(parameter))
        return made

    layer = make_layer()
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(replica(layer)(X), layer(X))
            layer.parts("default")[1].B.mul_(2)
    replica(layer)(X).square().sum().backward()
    generator, processor = layer.parts("default")
    assert all(p.grad.abs().sum() > 0 for p in (generator.prompts, processor.A, processor.B, processor.gate))


def test_training_keeps_nothing(folds: list) -> None:
    layer = make_layer()
    check(layer)
    layer.train()
    with torch.no_grad():  # as in the first pass of reentrant checkpointing
        layer(X)
    assert not layer.excitor_folded
    layer.eval()
    layer(X).sum().backward()  # in evaluation mode, yet with gradients
    assert not layer.excitor_folded
    assert len(folds) == 3


def test_a_frozen_adapter_passes_gradients_on_to_its_input(folds: list) -> None:
    layer = make_layer().requires_grad_(False)
    with torch.inference_mode():
        layer(X)
    x = X.clone().requires_grad_()
    generator, processor = layer.parts("default")
    (found,) = torch.autograd.grad(layer.term("default", x).square().sum(), x)
    (expected,) = torch.autograd.grad(processor.term(x, generator).square().sum(), x)
    torch.testing.assert_close(found, expected)
    assert len(folds) == 1


def test_it_is_never_saved_nor_copied() -> None:
    layer = make_layer()
    names = set(layer.state_dict())
    check(layer)
    assert layer.excitor_folded
    assert set(layer.state_dict()) == names
    copied = copy.deepcopy(layer)
    assert not copied.excitor_folded
    check(copied)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    assert not torch.load(buffer, weights_only=False).excitor_folded


def test_inference_tensors_are_folded_anew_each_time(folds: list) -> None:
    """They have no version counter that would tell of a change."""
    with torch.inference_mode():
        layer = make_layer()
        for _ in range(2):
            layer(X)
    assert len(folds) == 2
    assert not layer.excitor_folded


def test_meta_tensors_work_and_keep_nothing() -> None:
    layer = make_layer().to("meta")
    with torch.no_grad():
        assert layer(X.to("meta")).shape == (2, 7, 256)
    assert not layer.excitor_folded


def test_another_adapter_put_in_its_place_takes_effect(tmp_path) -> None:
    tokens = torch.arange(3, 25).view(2, 11)
    config = {"init_weights": False, "task_type": "CAUSAL_LM", "r": 2, "num_local_prompts": 1}
    other = get_peft_model(make_llama(), ExcitorConfig(**config)).eval()
    other.save_pretrained(tmp_path)
    torch.manual_seed(1)
    model = get_peft_model(make_llama(), ExcitorConfig(**config)).eval()
    with torch.no_grad():
        model(tokens)
        assert all(layer.excitor_folded for layer in excitor_layers(model).values())
        hotswap_adapter(model, str(tmp_path))
        assert torch.equal(model(tokens).logits, other(tokens).logits)
    model.delete_adapter("default")
    assert not any(layer.excitor_folded for layer in excitor_layers(model).values())


def test_a_table_in_place_of_the_mlp_is_folded_anew() -> None:
    layer = make_layer(generator="mlp")
    check(layer)
    old = layer.excitor_folded["default"].parameters
    materialize(layer)
    check(layer)
    assert layer.excitor_folded["default"].parameters is not old
