"""Statistics over seeds: paired differences, Holm's correction, ranks, hypervolume."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from excitor.trials import over_seeds


LEVEL = 0.05


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> dict[str, Any] | None:
    """Differences to a reference, seed by seed.

    Args:
        values: By seed.
        reference: By seed; seeds that only one of the two has are left out.

    Returns:
        As :func:`excitor.trials.over_seeds`, and ``p`` of a paired t-test against no difference, or of flipping
        signs where all differences are equal (None for a single seed); None where there is no common seed.
    """
    differences = [values[seed] - reference[seed] for seed in values if seed in reference]
    if not differences:
        return None
    return over_seeds(differences) | {"p": _p_of_mean(differences)}


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """P-values of a family of tests, corrected so that one false alarm in the family stays as rare as it should be.

    Holm, Scandinavian Journal of Statistics 6, 1979. None stays None and is no test.
    """
    tested = sorted((p, name) for name, p in p_values.items() if p is not None)
    corrected: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for number, (p, name) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - number) * p))
        corrected[name] = largest
    return corrected


def student_p(t: float, freedom: int) -> float:
    """Two-sided p-value of Student's t for a whole number of degrees of freedom.

    Abramowitz and Stegun, 26.7.3 and 26.7.4: finite sums of powers of a cosine.
    """
    angle = math.atan2(abs(t), math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for number in range(freedom // 2):
        total += term
        step = 2 * number + 1 + odd
        term *= cosine**2 * step / (step + 1)
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return max(0.0, 1.0 - within)


def rank_ranges(measures: Mapping[str, dict[str, Any]], higher: bool) -> dict[str, dict[str, Any]]:
    """The ranks that each method may have.

    Args:
        measures: By method, as :func:`excitor.trials.over_seeds` gives them.
        higher: Whether more is better.

    Returns:
        By method, best mean first: ``best`` and ``worst`` rank, and ``with``, the methods it is not separable from:
        their intervals overlap. Without an interval (one seed) nothing is separable.
    """
    order = sorted(measures, key=lambda name: measures[name]["mean"], reverse=higher)
    ranks = {}
    for name in order:
        others = [other for other in order if other != name]
        alike = [other for other in others if _overlap(measures[name], measures[other])]
        better = [other for other in others if other not in alike and order.index(other) < order.index(name)]
        ranks[name] = {"best": 1 + len(better), "worst": 1 + len(better) + len(alike), "with": alike}
    return ranks


def hypervolume(points: Sequence[tuple[float, float]], most: float) -> float:
    """The area that a learning-forgetting curve dominates.

    Args:
        points: Gain and forgetting, nats per token.
        most: Forgetting at the reference point, where the gain is 0.

    Returns:
        Nats squared: gain reached at each level of forgetting below ``most``, summed up. Points that learn nothing, or
        forget more, add nothing.
    """
    kept = sorted((forgetting, gain) for gain, forgetting in points if gain > 0 and forgetting < most)
    area, best = 0.0, 0.0
    for number, (forgetting, gain) in enumerate(kept):
        best = max(best, gain)
        end = kept[number + 1][0] if number + 1 < len(kept) else most
        area += best * (end - forgetting)
    return area


def _p_of_mean(differences: Sequence[float]) -> float | None:
    count = len(differences)
    if count < 2:
        return None
    mean = sum(differences) / count
    if all(math.isclose(value, mean, rel_tol=1e-9) for value in differences):
        # t is not defined, or made of rounding; of all ways to flip the signs, two are as far from 0.
        return 1.0 if mean == 0 else 2.0 ** (1 - count)
    variance = sum((value - mean) ** 2 for value in differences) / (count - 1)
    return student_p(mean / math.sqrt(variance / count), count - 1)


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if one["low"] is None or other["low"] is None:
        return True
    return one["low"] <= other["high"] and other["low"] <= one["high"]
