from collections.abc import Callable
from dataclasses import replace

import pytest

from excitor.mini.lessons import Lessons, make_lessons


@pytest.fixture
def few_lessons() -> Callable[..., Lessons]:
    """``make_lessons`` with a twentieth of everything that is asked afterwards."""

    def make(*arguments) -> Lessons:
        lessons = make_lessons(*arguments)
        return replace(
            lessons,
            tests={name: questions[::20] for name, questions in lessons.tests.items()},
            probes={name: probes[::20] for name, probes in lessons.probes.items()},
            right=lessons.right[::20],
            wrong=dict(list(lessons.wrong.items())[::20]),
        )

    return make
