import torch

from excitor.diagnostics.shares import moved, shares_of_change


def rows(scale):
    torch.manual_seed(0)
    before = torch.randn(3, 12).mul(3).softmax(-1)
    before[1, :4] = 0  # masked
    before[1] /= before[1].sum()
    return before, scale * torch.randn(3, 12, 5) / 5**0.5


def test_shares_sum_to_the_change():
    for scale in (0.1, 1.0, 12.0):
        before, parts = rows(scale)
        after = moved(before, parts.sum(-1))
        assert (after - before).abs().max() > 0.02 * min(scale, 1)
        shares = shares_of_change(before, parts)
        torch.testing.assert_close(shares.sum(-1), after - before, atol=1e-4, rtol=0)
        torch.testing.assert_close(shares.sum(-2), torch.zeros(3, 5), atol=1e-4, rtol=0)
        assert (shares[1, :4] == 0).all()


def test_a_single_part_has_all_and_one_for_all_tokens_has_nothing():
    before, parts = rows(1.0)
    parts[..., 1:] = 0
    parts[..., 1] = 7.0  # raises all scores alike
    shares = shares_of_change(before, parts)
    torch.testing.assert_close(shares[..., 0], moved(before, parts.sum(-1)) - before, atol=1e-5, rtol=0)
    torch.testing.assert_close(shares[..., 1:], torch.zeros(3, 12, 4), atol=1e-5, rtol=0)


def test_two_equal_parts_share_equally():
    before, parts = rows(4.0)
    parts[..., 1] = parts[..., 0]
    shares = shares_of_change(before, parts)
    torch.testing.assert_close(shares[..., 0], shares[..., 1])
