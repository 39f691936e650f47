import threading

import pytest
import torch
from torch import nn

from excitor import ExcitorError
from excitor.placement import BehindNorm, BehindRotatedNorm, InProjection, in_layout


# 4 query heads, 2 key heads, heads of size 3: features of the key in the output
PLACES = {
    "concatenated": [*range(12, 18)],
    "interleaved": [6, 7, 8, 18, 19, 20],
    "latent": [0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20],
    "key": [*range(24)],
}


@pytest.mark.parametrize("layout", PLACES)
def test_the_term_meets_the_key_and_nothing_else(layout: str) -> None:
    place = in_layout(layout, 24, 4, 3)
    output, terms = torch.randn(2, 5, 24), list(torch.randn(2, 2, 5, len(PLACES[layout])))
    expected = output.clone()
    for term in terms:
        expected[..., PLACES[layout]] += term
    assert torch.equal(place.leave(output, terms), expected)
    assert torch.equal(place.key(output), output[..., PLACES[layout]])
    assert place.leave(output, []) is output


@pytest.mark.parametrize(("heads", "head_dim"), [(None, 3), (4, 5), (8, 3), (3, 3)])
def test_sizes_that_do_not_fit(heads: int | None, head_dim: int) -> None:
    with pytest.raises(ExcitorError, match="a projection of 24 outputs does not hold"):
        in_layout("interleaved", 24, heads, head_dim)


def test_the_result_keeps_the_dtype_of_the_output() -> None:
    output, term = torch.randn(2, 6).bfloat16(), torch.randn(2, 2)
    assert InProjection(6, 1, 2, 2).leave(output, [term]).dtype == torch.bfloat16


# As many tokens as heads: the order of dimensions cannot be told from sizes.
@pytest.mark.parametrize("shape", ["flat", "heads", "heads first"])
def test_terms_wait_for_the_norm_once(shape: str) -> None:
    place, norm = BehindNorm(6, shape), nn.Identity()
    handle = place.follow(norm)
    output, term = torch.randn(1, 2, 6), torch.randn(1, 2, 6)

    def arranged(tensor: torch.Tensor) -> torch.Tensor:
        heads = tensor.view(1, 2, 2, 3)
        return {"flat": tensor, "heads": heads, "heads first": heads.transpose(1, 2)}[shape]

    assert place.leave(output, [term]) is output
    assert torch.equal(norm(arranged(output)), arranged(output) + arranged(term))
    assert torch.equal(place.key(arranged(output)), output)
    assert torch.equal(norm(arranged(output)), arranged(output))
    place.leave(output, [term])
    handle.remove()
    assert torch.equal(norm(arranged(output)), arranged(output))


def test_threads_do_not_mix_their_terms() -> None:
    """As where a server answers two requests at the same time, or ``nn.DataParallel`` runs copies of a model."""
    place, norm = BehindNorm(6, "flat"), nn.Identity()
    place.follow(norm)
    output, term = torch.randn(1, 2, 6), torch.randn(1, 2, 6)
    place.leave(output, [term])
    other = threading.Thread(target=place.leave, args=(output, [-term]))
    other.start()
    other.join()
    assert torch.equal(norm(output), output + term)


@pytest.mark.parametrize("query_heads", [2, 4, 6])
def test_a_term_travels_beside_its_key_and_is_not_normalised(query_heads: int) -> None:
    place, norm = BehindRotatedNorm(6, 2, query_heads), nn.LayerNorm(3)
    place.follow(norm)
    output, term = torch.randn(1, 5, 6), torch.randn(1, 5, 6)
    query = torch.randn(1, 5, query_heads, 3)
    key = place.leave(output, [term]).unflatten(-1, (-1, 3))
    assert torch.equal(norm(query), norm.forward(query))
    torch.testing.assert_close(norm(key), norm.forward(output.view(1, 5, 2, 3)) + term.view(1, 5, 2, 3))
    assert place.leave(output, []) is output
