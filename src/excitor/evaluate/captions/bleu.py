"""BLEU (Papineni et al., ACL 2002, https://aclanthology.org/P02-1040), over a whole set of captions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from .ngrams import ORDERS, ngram_counts


@dataclass
class Bleu:
    """The counts that BLEU is made of, summed over captions.

    Attributes:
        candidate_length: words in the candidates.
        reference_length: words in the references, for each candidate the one nearest to it in length (the shorter one
            of two that are equally near).
        total: n-grams in the candidates, for n from 1 to 4.
        correct: those of them that a reference has too; one that occurs more often in the candidate than in each of
            the references counts as often as in the reference that has most of it (section 2.1).
    """

    candidate_length: int = 0
    reference_length: int = 0
    total: list[int] = field(default_factory=lambda: [0] * ORDERS)
    correct: list[int] = field(default_factory=lambda: [0] * ORDERS)

    def add(self, candidate: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Counts one caption, given as words, against its references."""
        length = len(candidate)
        self.candidate_length += length
        self.reference_length += min((abs(len(reference) - length), len(reference)) for reference in references)[1]
        counted = [ngram_counts(reference) for reference in references]
        for order, counts in enumerate(ngram_counts(candidate)):
            self.total[order] += counts.total()
            self.correct[order] += sum(
                min(count, max(reference[order][ngram] for reference in counted)) for ngram, count in counts.items()
            )

    def scores(self) -> list[float]:
        """BLEU-1 to BLEU-4 between 0 and 1: ``BP * (p_1 ... p_n)^(1/n)`` (section 2.3), with equal weights."""
        short = self.candidate_length < self.reference_length
        penalty = math.exp(1 - self.reference_length / self.candidate_length) if short else 1.0
        precisions = [correct / max(total, 1) for correct, total in zip(self.correct, self.total, strict=True)]
        return [penalty * math.prod(precisions[:n]) ** (1 / n) for n in range(1, ORDERS + 1)]
