import pytest
import torch

from excitor.diagnostics.measure import measure
from excitor.diagnostics.moves import AttentionMap, Move, attention_map
from excitor.errors import ExcitorError


IDS = [1, 40, 41, 42, 43, 44]


def test_largest_moves():
    before = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.6, 0.3, 0.1]])
    after = torch.tensor([[1.0, 0, 0], [0.25, 0.75, 0], [0.1, 0.4, 0.5]])
    moves = AttentionMap(0, 0, before, after).largest_moves(3)
    assert moves == [Move(2, 0, 2, pytest.approx(0.4)), Move(1, 0, 1, 0.25)]  # the first row did not move
    assert AttentionMap(0, 0, before, after).largest_moves(1) == moves[:1]


def test_map_agrees_with_the_measurement(adapted):
    model = adapted(layers_to_transform=[0, 2])
    measured = measure(model, [IDS])
    found = attention_map(model, IDS, 2, 1)
    assert found.change.shape == (6, 6)
    assert (found.change.abs().sum(-1) / 2).mean().item() == pytest.approx(measured.layers[1].shift[1])
    torch.testing.assert_close(found.after.sum(-1), torch.ones(6))


def test_places_that_are_not_there(adapted):
    model = adapted(layers_to_transform=[0, 2])
    with pytest.raises(ExcitorError, match="Layer 1 is not adapted; the adapted layers are 0, 2"):
        attention_map(model, IDS, 1, 0)
    with pytest.raises(ExcitorError, match="no query head 4; the model has 0 to 3"):
        attention_map(model, IDS, 0, 4)
