"""Answers to sums: whether a reply ends with the right number, however it is written."""

import re
from fractions import Fraction


# What stands in front of the result in MetaMathQA's answers, and in GSM8K's.
MARKS = re.compile(r"(?:the\s+(?:final\s+)?answer\s+is:?|####)\s*(.*)", re.IGNORECASE)


def number_match(reply: str, answer: str) -> float:
    """1 if both end with the same number, else 0.

    The result is what follows the last "The answer is" or "####" on its line; a reply without either has none.
    ``50%`` is 50, as in GSM8K, which leaves the sign out; ``1,000`` is 1000 and ``20/35`` is 4/7. What is no number is
    compared as text.
    """
    said, expected = _result(reply), _result(answer)
    return float(said is not None and said == expected)


def _result(text: str) -> Fraction | str | None:
    found = MARKS.findall(text)
    if not found:
        return None
    shown = found[-1].strip(" .!?$%")
    try:
        return Fraction(shown.replace(",", "").replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        return shown or None
