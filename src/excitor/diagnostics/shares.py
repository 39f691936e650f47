"""How much each part of a change of scores has of the change of a softmax.

Scores are linear in their parts, a softmax is not: what one part does depends on how much of the others is there. Here
all of them come in together, from none to all, and each is given what it moves on the way (the Aumann-Shapley share,
known as integrated gradients). The shares sum to the change, and a part that raises all scores alike has none.
"""

import numpy as np
import torch
from torch import Tensor


NODES = 64  # of the Gauss-Legendre rule; tests hold it to 1e-4 for changes of scores of standard deviation 12
PLACES, WIDTHS = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(NODES))  # in [-1, 1]


def moved(before: Tensor, change: Tensor) -> Tensor:
    """Attention after a change of scores, ``softmax(log before + change)``; both ``(..., N)``."""
    return (before.log() + change).softmax(-1)


def shares_of_change(before: Tensor, parts: Tensor) -> Tensor:
    """Share out what becomes of attention rows.

    Args:
        before: Attention without the parts, ``(G, N)``, rows over N tokens; 0 for a token that is masked.
        parts: What each of P parts adds to the scores, ``(G, N, P)``.

    Returns:
        ``(G, N, P)``: summed over P the change of the attention, summed over N zero.
    """
    places, widths = PLACES.to(before), WIDTHS.to(before)
    way = moved(before, (places[:, None, None] + 1) / 2 * parts.sum(-1))  # (T, G, N)
    weighted = widths[:, None, None] / 2 * way
    common = torch.einsum("tgn,gnp->tgp", way, parts)
    return weighted.sum(0)[..., None] * parts - torch.einsum("tgn,tgp->gnp", weighted, common)
