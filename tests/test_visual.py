"""Visual prompts in one layer, against the equations with the prompts of each row put together by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from excitor import ExcitorConfig, ExcitorError, ExcitorLayer
from excitor.diagnostics.saved import saved_tensors
from excitor.functional import Prompts, excitor_query, reconstructed_key, split_heads
from excitor.visual import Pictures, VisualPrompts, seeing


HEADS, HEAD_DIM, WIDTH = 2, 6, 5


def make_layer(**changes) -> ExcitorLayer:
    layer = ExcitorLayer(nn.Linear(8, HEADS * HEAD_DIM).double(), HEAD_DIM)
    layer.set_adapter("default")
    values = {"r": 3, "num_prompts": 4, "num_local_prompts": 0, "vision_width": WIDTH, "init_weights": False}
    layer.update_layer("default", ExcitorConfig(**(values | changes)))
    return layer.double()


def by_hand(layer: ExcitorLayer, x: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
    """The term of one row, ``(M, C)``, whose pictures have ``(T, D)`` features, if there are any."""
    generator, processor = layer.parts("default")
    groups = generator(x @ processor.A)
    if features is not None:
        maps = layer.excitor_visual["default"]
        seen = features if maps.trunk is None else features @ maps.trunk
        groups = [*groups, Prompts(*(split_heads(seen @ each, HEADS) for each in (maps.key_map, maps.value_map)))]
    if not groups:
        return x.new_zeros(len(x), HEADS * HEAD_DIM)
    query = excitor_query(x, processor.A, processor.B, HEADS)
    key = reconstructed_key(query, groups, processor.null_bias, processor.temperature)
    return (processor.gates()[:, None] * key).flatten(-2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vision_rank": 2},
        {"num_prompts": 0},
        {"num_prompts": 0, "null_prompt": True, "temperature": 2.0},
        {"num_local_prompts": 2, "separate_values": True, "gate": "layer"},
        {"generator": "mlp", "gate": "none"},
    ],
)
@settings(max_examples=10)
@given(counts=st.lists(st.integers(0, 3), min_size=1, max_size=4), tokens=st.integers(1, 3), length=st.integers(1, 4))
def test_each_row_attends_to_its_own_pictures(changes: dict, counts: list[int], tokens: int, length: int) -> None:
    torch.manual_seed(0)
    layer = make_layer(**changes)
    x = torch.randn(len(counts), length, 8, dtype=torch.double, requires_grad=True)
    features = torch.randn(sum(counts), tokens, WIDTH, dtype=torch.double)
    with seeing(Pictures.of_rows(features, torch.tensor(counts))):
        found = layer(x) - layer.base_layer(x)
    own = features.split(counts)
    rows = [by_hand(layer, row, each.flatten(0, 1) if len(each) else None) for row, each in zip(x, own, strict=True)]
    expected = torch.stack(rows)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    with seeing(Pictures.of_rows(features, torch.tensor(counts))), torch.no_grad():
        folded = layer(x) - layer.base_layer(x)
    torch.testing.assert_close(folded, expected, atol=1e-10, rtol=1e-10)

    parameters = [x, *(p for p in layer.parameters() if p.requires_grad)]
    weight = torch.randn_like(expected)
    for got, wanted in zip(
        torch.autograd.grad((found * weight).sum(), parameters, allow_unused=True, materialize_grads=True),
        torch.autograd.grad((expected * weight).sum(), parameters, allow_unused=True, materialize_grads=True)
        if expected.requires_grad
        else [torch.zeros_like(p) for p in parameters],
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, atol=1e-9, rtol=1e-9)


def test_visual_prompts_alone_leave_a_row_without_pictures_bit_for_bit() -> None:
    layer = make_layer(num_prompts=0)
    x = torch.randn(3, 4, 8, dtype=torch.double)
    base = layer.base_layer(x)
    assert torch.equal(layer(x), base)
    with seeing(Pictures.of_rows(torch.randn(0, 2, WIDTH), torch.tensor([0, 0, 0]))):
        assert torch.equal(layer(x), base)
    with seeing(Pictures.of_rows(torch.randn(3, 2, WIDTH), torch.tensor([1, 0, 2]))):
        seen = layer(x)
    assert torch.equal(seen[1], base[1])
    assert not torch.allclose(seen[0], base[0])
    assert torch.equal(layer.term("default", x), torch.zeros_like(base))


def test_identity_start_is_silent_and_learns() -> None:
    for num_prompts in (0, 4):
        layer = make_layer(num_prompts=num_prompts, init_weights="identity", gate="none")
        x = torch.randn(2, 4, 8, dtype=torch.double)
        with seeing(Pictures(torch.randn(2, 3, WIDTH, dtype=torch.double))):
            term = layer(x) - layer.base_layer(x)
            assert term.abs().max() < 1e-7  # prompts were centred in fp32
            (term * torch.randn_like(term)).sum().backward()
        assert layer.excitor_visual["default"].value_map.grad.abs().min() > 0


def test_prompts_are_folded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make_layer().eval()
    processor = layer.parts("default")[1]
    folds: list[int] = []
    fold = processor.fold_pictures
    monkeypatch.setattr(processor, "fold_pictures", lambda prompts: folds.append(len(prompts.keys)) or fold(prompts))
    x = torch.randn(2, 3, 8, dtype=torch.double)
    with seeing(Pictures(torch.randn(2, 3, WIDTH))), torch.no_grad():
        layer(x)
        layer(x)
        assert folds == [2]
        layer(x.repeat_interleave(3, dim=0))  # beams
    assert folds == [2, 6]


def test_copies_of_rows_see_the_same_pictures() -> None:
    layer = make_layer()
    x = torch.randn(2, 4, 8, dtype=torch.double)
    pictures = Pictures.of_rows(torch.randn(3, 2, WIDTH), torch.tensor([1, 2]))
    with seeing(pictures):
        once, thrice = layer(x), layer(x.repeat_interleave(3, dim=0))
    torch.testing.assert_close(thrice, once.repeat_interleave(3, dim=0))
    with seeing(pictures), pytest.raises(ExcitorError, match="pictures for 2 rows, but the batch has 3"):
        layer(torch.randn(3, 4, 8, dtype=torch.double))


def test_rows_under_different_adapters_keep_their_pictures() -> None:
    layer = make_layer()
    layer.update_layer("blind", ExcitorConfig(r=2, num_prompts=3, init_weights=False))
    layer = layer.double().eval()
    x = torch.randn(4, 3, 8, dtype=torch.double)
    names = ["blind", "default", "__base__", "default"]
    with seeing(Pictures.of_rows(torch.randn(5, 2, WIDTH), torch.tensor([1, 3, 0, 1]))):
        mixed = layer(x, adapter_names=names)
        own = layer(x)
        layer.set_adapter("blind")
        blind = layer(x)
    torch.testing.assert_close(mixed[[1, 3]], own[[1, 3]])
    torch.testing.assert_close(mixed[0], blind[0])
    assert torch.equal(mixed[2], layer.base_layer(x)[2])


def test_features_of_another_width_are_refused() -> None:
    maps = VisualPrompts(WIDTH, HEADS, HEAD_DIM, rank=None, init_std=0.3)
    with pytest.raises(ExcitorError, match=r"features are 7 wide, .* width 5 \(vision_width\)"):
        maps(torch.randn(1, 2, 7))


def test_the_weights_over_prompts_include_the_pictures() -> None:
    layer = make_layer(null_prompt=True)
    x = torch.randn(2, 3, 8, dtype=torch.double)
    assert layer.prompt_weights("default", x).shape == (2, 3, HEADS, 5)
    with seeing(Pictures.of_rows(torch.randn(1, 4, WIDTH), torch.tensor([1, 0]))):
        weights = layer.prompt_weights("default", x)
    assert weights.shape == (2, 3, HEADS, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, HEADS, dtype=weights.dtype))
    assert not weights[1, ..., 4:8].any()


@pytest.mark.parametrize("counts", [[1, 1], [2, 0]], ids=str)
def test_pictures_are_seen_under_autocast_without_gradients(counts: list[int]) -> None:
    layer = make_layer().float().eval()
    x, features = torch.randn(2, 4, 8), torch.randn(2, 3, WIDTH)
    with torch.no_grad():
        with seeing(Pictures.of_rows(features, torch.tensor(counts))):
            expected = layer.term("default", x)
        with seeing(Pictures.of_rows(features, torch.tensor(counts))), torch.autocast("cpu", torch.bfloat16):
            found = layer.term("default", x)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


def test_a_batch_without_pictures_trains_nothing_and_breaks_nothing() -> None:
    layer, x = make_layer(num_prompts=0).train(), torch.randn(2, 4, 8, dtype=torch.double)
    output = layer(x)
    assert torch.equal(output, layer.base_layer(x))
    layer.base_layer.requires_grad_(False)
    layer(x).square().sum().backward()
    maps = layer.excitor_visual["default"]
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in maps.parameters())


def test_training_keeps_no_scores_over_the_features() -> None:
    """Only what the form as written keeps grows with the features that a token looks at."""

    def kept(tokens: int, *, computed_again: bool) -> int:
        layer = make_layer()
        generator, processor = layer.parts("default")
        x = torch.randn(2, 50, 8, dtype=torch.double, requires_grad=True)
        pictures = Pictures(torch.randn(2, tokens, WIDTH, dtype=torch.double))
        with seeing(pictures), saved_tensors(layer) as saved:
            if computed_again:
                outputs = layer.term("default", x)
            else:
                outputs = processor.term(x, generator, layer.visual_prompts("default", x))
        assert outputs.requires_grad
        return saved.bytes

    assert kept(300, computed_again=True) == kept(10, computed_again=True)
    assert kept(300, computed_again=False) - kept(10, computed_again=False) > 290 * 2 * 50 * HEADS * 8
