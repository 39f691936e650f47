"""ROUGE-L (Lin, ACL 2004, https://aclanthology.org/W04-1013), for one caption with several references."""

from collections import defaultdict
from collections.abc import Sequence


BETA = 1.2  # the weight of recall that coco-caption uses


def rouge_l(candidate: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The F-measure of the longest common subsequence: ``(1 + b^2) R P / (R + b^2 P)``, equation 4, between 0 and 1.

    As in coco-caption, precision and recall are each the best over the references, so they may come from two of them.

    Args:
        candidate: the words of the caption, at least one.
        references: the words of each reference, at least one each.
    """
    common = [longest_common_subsequence(candidate, reference) for reference in references]
    precision = max(common) / len(candidate)
    recall = max(length / len(reference) for length, reference in zip(common, references, strict=True))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision else 0.0


def longest_common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """The length of the longest sequence of words that both have, in order, with anything in between.

    A row of the usual table is held in the bits of one integer, a 0 where the length grows by one (Crochemore et al.,
    Information Processing Letters 80, 2001); so it takes one step a word of ``right``.
    """
    places: defaultdict[str, int] = defaultdict(int)
    for place, word in enumerate(left):
        places[word] |= 1 << place
    ones = row = (1 << len(left)) - 1
    for word in right:
        matched = row & places[word]
        row = (row + matched | row - matched) & ones
    return len(left) - row.bit_count()
