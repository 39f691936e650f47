import pytest
import torch

from excitor.functional import Prompts
from excitor.processor import PromptProcessor


def make(**changes) -> PromptProcessor:
    settings = {"num_gates": 3, "gate_init": 0.5, "gate_init_std": 0.0} | changes
    return PromptProcessor(10, 2, 3, 4, **settings)


def groups() -> list[Prompts]:
    table = torch.randn(5, 3, 4)
    return [Prompts(table, table)]


@pytest.mark.parametrize(("num_gates", "count"), [(3, 3), (1, 1), (0, 0)])
def test_a_gate_per_head_per_layer_or_none(num_gates: int, count: int) -> None:
    processor, prompts, features = make(num_gates=num_gates), groups(), torch.randn(2, 7, 2)
    assert sum(parameter.numel() for name, parameter in processor.named_parameters() if name == "gate") == count
    expected = torch.full((3,), 0.5 if count else 1.0)
    torch.testing.assert_close(processor.gates(), expected)
    ungated = make(num_gates=0)
    ungated.load_state_dict(processor.state_dict(), strict=False)
    torch.testing.assert_close(processor(features, prompts), ungated(features, prompts) * expected[0])


def test_gates_scale_their_own_head() -> None:
    processor, prompts, features = make(), groups(), torch.randn(7, 2)
    with torch.no_grad():
        processor.gate.copy_(torch.tensor([0.0, 1.0, -2.0]))
    ungated = make(num_gates=0)
    ungated.load_state_dict(processor.state_dict(), strict=False)
    full = ungated(features, prompts).view(7, 3, 4)
    torch.testing.assert_close(processor(features, prompts).view(7, 3, 4), full * processor.gate[:, None])


def test_weights_are_a_distribution_with_the_null_prompt_last() -> None:
    processor, prompts, features = make(null_prompt=True), groups(), torch.randn(2, 7, 2)
    weights = processor.weights(features, prompts)
    assert weights.shape == (2, 7, 3, 6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 7, 3))
    with torch.no_grad():
        processor.null_bias.fill_(200.0)
    assert (processor.weights(features, prompts)[..., -1] == 1).all()
    assert not processor(features, prompts).any()


def test_a_higher_temperature_spreads_the_weights() -> None:
    sharp, features, prompts = make(temperature=0.1), torch.randn(50, 2), groups()
    flat = make(temperature=10.0)
    flat.load_state_dict(sharp.state_dict())
    assert flat.weights(features, prompts).amax(-1).mean() < 0.25 < sharp.weights(features, prompts).amax(-1).mean()
