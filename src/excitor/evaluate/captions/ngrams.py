"""Counts of the runs of one to four words, which BLEU and CIDEr compare."""

from collections import Counter
from collections.abc import Iterable, Sequence


ORDERS = 4

NGram = tuple[str, ...]


def ngram_counts(tokens: Sequence[str]) -> list[Counter[NGram]]:
    """How often each n-gram occurs in a caption, for n from 1 to 4."""
    return [Counter(ngrams(tokens, n)) for n in range(1, ORDERS + 1)]


def ngrams(tokens: Sequence[str], n: int) -> Iterable[NGram]:
    """The n-grams of a caption in order; none if it has fewer than n words."""
    return zip(*(tokens[start:] for start in range(n)), strict=False)
