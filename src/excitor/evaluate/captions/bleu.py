"""BLEU (Papineni et al., ACL 2002, https://aclanthology.org/P02-1040), over a whole set of captions."""

from collections.abc import Sequence

import numpy as np

from .ngrams import ORDERS, ngram_counts


def bleu_counts(candidate: Sequence[str], references: Sequence[Sequence[str]]) -> list[int]:
    """What one caption, given as words, adds to the sums that BLEU is computed from.

    Returns:
        Ten numbers: words in the candidate; words in the reference nearest to it in length (the shorter one of two
        that are equally near); n-grams in the candidate, for n from 1 to 4; those of them that a reference has too,
        where one that occurs more often in the candidate than in each of the references counts as often as in the
        reference that has most of it (section 2.1).
    """
    length = len(candidate)
    nearest = min((abs(len(reference) - length), len(reference)) for reference in references)[1]
    counted, own = [ngram_counts(reference) for reference in references], ngram_counts(candidate)
    correct = [
        sum(min(count, max(reference[order][ngram] for reference in counted)) for ngram, count in counts.items())
        for order, counts in enumerate(own)
    ]
    return [length, nearest, *(counts.total() for counts in own), *correct]


def bleu(sums: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4 between 0 and 1: ``BP * (p_1 ... p_n)^(1/n)`` (section 2.3), with equal weights.

    Args:
        sums: Of `bleu_counts` over captions, ``[..., 10]``.

    Returns:
        fp64 ``[..., 4]``.
    """
    candidate, reference = sums[..., :1], sums[..., 1:2]
    total, correct = sums[..., 2 : 2 + ORDERS], sums[..., 2 + ORDERS :]
    penalty = np.exp(np.minimum(0, 1 - reference / candidate))
    return penalty * np.cumprod(correct / np.maximum(total, 1), axis=-1) ** (1 / np.arange(1, ORDERS + 1))
