"""CIDEr-D (Vedantam et al., CVPR 2015, https://arxiv.org/abs/1411.5726, section 4 and "CIDEr-D" in section 8.1)."""

import math
from collections import Counter
from collections.abc import Sequence

from .ngrams import ORDERS, NGram, ngram_counts, ngrams


SIGMA = 6.0  # width, in words, of the penalty for another length


class Cider:
    """CIDEr-D with the document frequencies of a set of images.

    Args:
        references: for each image the words of its references. Each image is one document.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        self._frequency: Counter[NGram] = Counter()
        for image in references:
            self._frequency.update(
                {ngram for tokens in image for n in range(1, ORDERS + 1) for ngram in ngrams(tokens, n)}
            )
        self._log_images = math.log(len(references))

    def score(self, candidate: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """The mean over n from 1 to 4 and over the references of a clipped cosine of TF-IDF vectors, from 0 to 10."""
        vectors = self._vectors(candidate)
        total = 0.0
        for reference in references:
            difference = len(candidate) - len(reference)
            penalty = math.exp(-(difference**2) / (2 * SIGMA**2))
            for vector, other in zip(vectors, self._vectors(reference), strict=True):
                norms = math.hypot(*vector.values()) * math.hypot(*other.values())
                if norms:
                    clipped = sum(
                        min(weight, other[ngram]) * other[ngram] for ngram, weight in vector.items() if ngram in other
                    )
                    total += penalty * clipped / norms
        return 10 * total / (ORDERS * len(references))

    def _vectors(self, tokens: Sequence[str]) -> list[dict[NGram, float]]:
        """Term frequency times ``log(images / images with the n-gram)``, for n from 1 to 4 (equation 1)."""
        frequency = self._frequency
        return [
            {ngram: count * (self._log_images - math.log(frequency[ngram] or 1)) for ngram, count in counts.items()}
            for counts in ngram_counts(tokens)
        ]
