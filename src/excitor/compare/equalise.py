"""What ``--match`` does: every method at the size at which it costs what the target costs."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import PretrainedConfig

from excitor.compare.budget import TOLERANCE, count, knob_of, match, sized, sizes_of
from excitor.compare.experiments import Experiment
from excitor.compare.flops import flops, row_length
from excitor.compare.timing import Ratio, Steps, compare_times, nearest_size, step_of
from excitor.errors import ExcitorError


TOLERANCES = {"params": TOLERANCE, "flops": TOLERANCE, "time": 0.05}
"""By what can be matched: how near to the target counts as equal. Times are noisier than counts."""

Spent = dict[str, list[float]]


def equalise(
    experiments: Sequence[Experiment],
    config: PretrainedConfig,
    by: str,
    target: str,
    training: dict[str, Any],
    earlier: tuple[Sequence[Experiment], Spent] = ((), {}),
) -> tuple[list[Experiment], Spent]:
    """Solve sizes.

    Args:
        experiments: Resolved for the base.
        config: Of the base.
        by: One of ``TOLERANCES``.
        target: Name of one of them, or a number: of parameters, or of operations per token.
        training: What training is told, whatever the method.
        earlier: What an earlier call gave. Times that were measured then are not measured again, or an interrupted
            comparison would go on with other sizes.

    Returns:
        The experiments, and by name what they cost: operations per token; or the time of a step as a ratio to the
        target's, median and interval. Parameters are counted elsewhere.

    Raises:
        ExcitorError: The target is no method and no number, or a method does not fit the base.
    """
    length = row_length(config, training.get("max_length"))
    if by == "time":
        steps = Steps(
            training["batch_size"],
            length,
            training.get("precision", "auto"),
            training.get("gradient_checkpointing", False),
        )
        return _by_time(experiments, config, target, steps, earlier)
    cost: Callable[[Experiment, PretrainedConfig], int] = partial(flops, length=length) if by == "flops" else count
    number = _target(experiments, target, lambda one: cost(one, config))
    found = [match(experiment, config, number, cost) for experiment in experiments]
    return found, {one.name: [cost(one, config)] for one in found} if by == "flops" else {}


def _by_time(
    experiments: Sequence[Experiment],
    config: PretrainedConfig,
    target: str,
    steps: Steps,
    earlier: tuple[Sequence[Experiment], Spent],
) -> tuple[list[Experiment], Spent]:
    named = {experiment.name: experiment for experiment in experiments}
    if target not in named or named[target].adapter is None:
        raise ExcitorError(
            f"match: time needs a method that trains as its target, got {target!r}: times mean something only beside "
            f"others that were measured in turn with them. There are {', '.join(named)}."
        )
    before = {experiment.name: experiment for experiment in earlier[0] if experiment.name in earlier[1]}
    if target in before and before[target].adapter != named[target].adapter:
        before = {}
    found: list[Experiment] = []
    spent: Spent = {}
    with _one_thread():
        reference = None
        for experiment in experiments:
            known = before.get(experiment.name)
            if known is not None and _but_for_size(known) == _but_for_size(experiment):
                found.append(replace(experiment, adapter=known.adapter, matched=known.matched))
                spent[experiment.name] = earlier[1][experiment.name]
            elif experiment.adapter is None:
                found.append(experiment)
            else:
                reference = reference or step_of(named[target], config, steps)
                timed = partial(
                    compare_times, target=reference, config=config, steps=steps, tolerance=TOLERANCES["time"]
                )
                solved, ratio = _solve(experiment, timed, fixed=experiment.name == target)
                found.append(solved)
                spent[experiment.name] = [ratio.median, ratio.low, ratio.high]
    return found, spent


def _solve(experiment: Experiment, timed: Callable[[Experiment], Ratio], fixed: bool) -> tuple[Experiment, Ratio]:
    """The experiment at the size whose step takes as long as the target's; as it is where it is to stay fixed."""
    knob, adapter, tolerance = knob_of(experiment), experiment.adapter, TOLERANCES["time"]
    if knob is None or adapter is None or fixed:
        ratio = timed(experiment)
        return (replace(experiment, matched=True) if fixed else experiment), ratio  # the target's own: how noisy it is

    def ratio_at(size: int) -> Ratio | None:
        try:
            return timed(replace(experiment, adapter=sized(adapter, knob, size)))
        except (ExcitorError, torch.OutOfMemoryError):  # larger than the layer, or than the memory
            return None

    nearest = nearest_size(ratio_at, sizes_of(knob), tolerance)
    if nearest is None:
        return experiment, timed(experiment)  # which says why
    size, ratio = nearest
    return replace(experiment, adapter=sized(adapter, knob, size), matched=ratio.within(tolerance)), ratio


def _but_for_size(experiment: Experiment) -> dict[str, Any]:
    """The fields of an adapter that its size does not change."""
    knob = knob_of(experiment) or {}
    sizes = {knob.get("size"), *knob.get("in_step", ())}
    adapter = {name: value for name, value in (experiment.adapter or {}).items() if name not in sizes}
    return json.loads(json.dumps(adapter))


def _target(experiments: Sequence[Experiment], target: str, cost: Callable[[Experiment], int]) -> int:
    named = {experiment.name: experiment for experiment in experiments}
    if target in named:
        return cost(named[target])
    try:
        return int(target)
    except ValueError:
        raise ExcitorError(f"The target {target!r} is neither a number nor one of {', '.join(named)}.") from None


@contextmanager
def _one_thread() -> Iterator[None]:
    """As runs have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
