import pytest
import torch

from excitor.generator import PromptMLP, PromptTable


def make(kind, **changes):
    return kind(5, 3, 4, rank=2, **({"init_std": 1.0} | changes))


@pytest.mark.parametrize("kind", [PromptTable, PromptMLP])
@pytest.mark.parametrize("separate", [False, True])
def test_global_prompts_ignore_the_features(kind, separate: bool) -> None:
    (group,) = make(kind, separate_values=separate)(torch.randn(2, 7, 2))
    assert group.keys.shape == group.values.shape == (5, 3, 4)
    assert torch.equal(group.keys, group.values) == (not separate)


@pytest.mark.parametrize("separate", [False, True])
def test_local_prompts_differ_and_follow_the_token(separate: bool) -> None:
    generator = make(PromptTable, num_local_prompts=2, separate_values=separate)
    features = torch.randn(2, 7, 2)
    _, local = generator(features)
    assert local.keys.shape == local.values.shape == (2, 7, 2, 3, 4)
    assert not torch.allclose(local.keys[:, :, 0], local.keys[:, :, 1])
    _, alone = generator(features[1, 3])
    torch.testing.assert_close(local.keys[1, 3], alone.keys)
    assert torch.equal(local.keys, local.values) == (not separate)


def test_local_prompts_can_stand_alone() -> None:
    generator = PromptTable(0, 3, 4, rank=2, num_local_prompts=2, init_std=1.0)
    (local,) = generator(torch.randn(7, 2))
    assert local.keys.shape == (7, 2, 3, 4)


def test_local_prompts_start_with_the_deviation_asked_for() -> None:
    generator = PromptTable(1, 4, 16, rank=16, num_local_prompts=20, init_std=0.3)
    assert abs(generator(torch.randn(50, 16))[1].keys.std().item() - 0.3) < 0.02


@pytest.mark.parametrize("kind", [PromptTable, PromptMLP])
@pytest.mark.parametrize("separate", [False, True])
def test_prompts_start_with_the_deviation_asked_for(kind, separate: bool) -> None:
    generator = kind(200, 4, 16, rank=2, init_std=0.3, separate_values=separate)
    for table in generator.tables():
        assert abs(table.std().item() - 0.3) < 0.04


def test_an_mlp_takes_the_seeds_of_the_other_layers() -> None:
    first = make(PromptMLP)
    second = make(PromptMLP, seeds=first.seeds)
    assert second.seeds is first.seeds
    assert not torch.equal(first.tables()[0], second.tables()[0])
