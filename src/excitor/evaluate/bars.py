"""The bars that a release can be held to."""

from dataclasses import dataclass

from excitor.arguments import flag


@dataclass(frozen=True)
class Bar:
    """A limit on one metric of one task."""

    name: str
    """Of the argument."""
    task: str
    metric: str
    help: str
    falling: bool = False
    """Whether the limit is on how far the metric falls (drop, gain of a loss), not on the metric itself."""
    least: bool = False
    """Whether at least the limit is wanted, not at most."""
    needs: str | None = None
    """The argument without which the task does not run."""
    chance: float | None = None
    """Of the accuracy in per cent, where one guesses: a base that does no better has nothing to lose."""
    failed: str | None = None
    """The metric that says how many per cent of the items got no answer at all."""

    @property
    def flag(self) -> str:
        """As on the command line."""
        return flag(self.name)


BARS = {
    bar.name: bar
    for bar in (
        Bar("max_forgetting", "forgetting", "loss change", "Ship only if the loss on text rises by at most this."),
        Bar("max_kl", "forgetting", "KL", "Ship only if KL(base || subject) on text is at most this."),
        Bar(
            "min_gain",
            "learned",
            "answer loss change",
            "Ship only if the loss of held-out answers falls by at least this.",
            falling=True,
            least=True,
            needs="data",
        ),
        Bar(
            "max_mmlu_drop",
            "mmlu",
            "accuracy change",
            "Ship only if MMLU accuracy falls by at most this many points.",
            falling=True,
            needs="mmlu",
            chance=25.0,
        ),
        Bar(
            "max_scienceqa_drop",
            "scienceqa",
            "accuracy change",
            "Ship only if ScienceQA accuracy falls by at most this many points.",
            falling=True,
            needs="scienceqa",
            failed="failed",
        ),
    )
}
