"""Three ways in which an adapter goes wrong, recognised by measured signs.

The thresholds are justified in docs/diagnostics.md by what healthy and sick runs measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields


FORGOTTEN = 0.1  # rise of the loss on text that is not instructions, nats per token; healthy runs stay below 0.05
LARGE_SHIFT = 0.05  # attention moved, mean total variation
UNLEARNED = 0.02  # share of the base's loss on held-out answers; learning less than this is learning nothing
TINY_SHIFT = 0.01
TINY_KL = 0.001  # to the base on text that is not instructions, nats per token; stands in for a shift not measured
LOSS_RISE = 0.5  # of the mean over a twentieth of the run, in shares of the first such mean
SPREAD = 5.0  # largest size over the median one: gates of layers, prompts of a layer
ONE_PROMPT = 0.95  # share of the weight that one prompt has, mean over the heads of a layer


@dataclass(frozen=True)
class Signs:
    """What is known about an adapter; None where it was not measured.

    Attributes:
        learned: Change of the loss on held-out answers, in shares of the base's; negative is good.
        forgotten: Change of the loss on text that is not instructions, nats per token.
        kl: KL(base || adapter) on that text, nats per token.
        shift: How much attention moves: total variation, mean over layers, heads and tokens.
        loss_rise: Largest rise of the smoothed training loss over its lowest before, in shares of its first.
        gate_spread: Mean |gate| of the layer where it is largest, over that of the median layer.
        prompt_spread: Length of the longest prompt over the median of its layer, in the layer where that is largest.
        top_share: Share of all weight that one prompt has, in the layer where that is largest.
    """

    learned: float | None = None
    forgotten: float | None = None
    kl: float | None = None
    shift: float | None = None
    loss_rise: float | None = None
    gate_spread: float | None = None
    prompt_spread: float | None = None
    top_share: float | None = None

    def __or__(self, other: "Signs") -> "Signs":
        """What either knows; ``other`` wins."""
        known = ({field.name: getattr(signs, field.name) for field in fields(signs)} for signs in (self, other))
        mine, theirs = known
        return Signs(**{name: mine[name] if value is None else value for name, value in theirs.items()})


@dataclass(frozen=True)
class Finding:
    """Something that looks wrong.

    Attributes:
        name: ``over-modification``, ``under-modification`` or ``prompt-generator imbalance``.
        evidence: The measured numbers with their thresholds.
        advice: What to change.
    """

    name: str
    evidence: list[str]
    advice: str


def diagnose(signs: Signs) -> list[Finding]:
    """What is wrong with an adapter, by what is known about it; nothing for a healthy one."""
    return [*_over_modification(signs), *_under_modification(signs), *_imbalance(signs)]


def _over_modification(signs: Signs) -> Iterator[Finding]:
    """Knowledge falls while attention moves far; with the shift not measured, knowledge alone speaks."""
    if _above(signs.forgotten, FORGOTTEN) and (signs.shift is None or signs.shift > LARGE_SHIFT):
        evidence = [f"the loss on text that is not instructions rose by {signs.forgotten:.3f} nats (> {FORGOTTEN})"]
        if signs.shift is not None:
            evidence.append(f"attention moved by {signs.shift:.3f} on average (> {LARGE_SHIFT})")
        yield Finding(
            "over-modification",
            evidence,
            "Try --strength 0.5 first, which needs no training. Then train again with a lower --learning-rate, more "
            "replay (--keep), or fewer layers (--top-layers).",
        )


def _under_modification(signs: Signs) -> Iterator[Finding]:
    """Nothing is learned while attention hardly moves, or, with the shift not measured, the model hardly changes."""
    if not _above(signs.learned, -UNLEARNED):
        return
    if signs.shift is not None:
        tiny, change = signs.shift < TINY_SHIFT, f"attention moved by {signs.shift:.4f} on average (< {TINY_SHIFT})"
    elif signs.kl is not None:
        tiny, change = signs.kl < TINY_KL, f"the model is {signs.kl:.4f} nats from its base (KL, < {TINY_KL})"
    else:
        return
    if tiny:
        yield Finding(
            "under-modification",
            [f"the loss on held-out answers changed by {signs.learned:+.1%} (> -{UNLEARNED:.0%})", change],
            "Raise --learning-rate (three times at first) or the number of steps; gates that start near 0 "
            "(--preset paper) are better started at 1 (--gate-init); then more prompts (--num-prompts) or more layers "
            "(--top-layers).",
        )


def _imbalance(signs: Signs) -> Iterator[Finding]:
    """Any one of its signs is enough."""
    marks = [
        (signs.loss_rise, LOSS_RISE, "the training loss rose by {:.2f} of what it was at the start"),
        (signs.gate_spread, SPREAD, "the gates of one layer are {:.1f} times those of the median layer"),
        (signs.prompt_spread, SPREAD, "the longest prompt of a layer is {:.1f} times as long as its median prompt"),
        (signs.top_share, ONE_PROMPT, "one prompt of a layer has {:.1%} of the weight"),
    ]
    evidence = [f"{text.format(value)} (> {limit})" for value, limit, text in marks if _above(value, limit)]
    if evidence:
        yield Finding(
            "prompt-generator imbalance",
            evidence,
            "Lower --learning-rate or lengthen --warmup-ratio; start with smaller prompts (--prompt-init-std); give "
            "prompts values of their own (--separate-values) or raise --temperature, so that no prompt wins for good.",
        )


def _above(value: float | None, limit: float) -> bool:
    return value is not None and value > limit
