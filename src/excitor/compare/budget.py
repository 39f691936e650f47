"""Equal budgets: the size of each method, solved for what it may cost."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from excitor.compare.experiments import Experiment, fitted
from excitor.errors import ExcitorError
from excitor.train.prepare import count_trainable


TOLERANCE = 0.02
MOST = 4096  # of any size: far beyond what is used

KNOBS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "knobs.json").read_text(encoding="utf-8"))
"""By ``peft_type``: ``size``, the field that says how large an adapter is; where given, ``values`` it may have and the
``most`` it may be; ``pattern``, the field that gives some layers another size; ``in_step``, fields that grow with the
size, with their own patterns."""


def count(experiment: Experiment, config: PretrainedConfig) -> int:
    """Trainable parameters of an experiment on a base, found without its weights.

    Raises:
        ExcitorError: The method does not fit the base; the message names the experiment.
    """
    if experiment.adapter is None:
        return 0
    with fitted(experiment):
        return count_trainable(config, experiment.method())


def match(
    experiment: Experiment,
    config: PretrainedConfig,
    target: int,
    cost: Callable[[Experiment, PretrainedConfig], int] = count,
) -> Experiment:
    """The experiment at the size at which its cost comes nearest to ``target``.

    Where one more in every layer is too coarse, the lower layers get one more.

    Args:
        experiment: Resolved for the base.
        config: Of the base.
        target: What it may cost.
        cost: Of an experiment on a base; it rises with the size. Trainable parameters by default.

    Returns:
        The experiment with ``matched`` set: whether it is within two per cent, None where its method has no size to
        choose, or none that the cost depends on.
    """
    knob = knob_of(experiment)
    if experiment.adapter is None or knob is None:
        return experiment
    adapter, known = experiment.adapter, dict[str, int]()

    def counted(fields: dict[str, Any]) -> int:
        key = json.dumps(fields, sort_keys=True)
        if key not in known:
            known[key] = cost(replace(experiment, adapter=fields), config)
        return known[key]

    def of_size(size: int) -> int:
        return counted(sized(adapter, knob, size))

    values = sizes_of(knob)
    first = [of_size(size) for size in values[:2] if _works(of_size, size)]
    if len(first) == 2 and first[0] == first[1]:
        return experiment
    sizes = [sized(adapter, knob, size) for size in _around(of_size, values, target)]
    sizes += _between(sizes[0], knob, config) if "pattern" in knob else []
    best = min(sizes, key=lambda fields: abs(counted(fields) - target))
    return replace(experiment, adapter=best, matched=abs(counted(best) - target) <= TOLERANCE * target)


def knob_of(experiment: Experiment) -> dict[str, Any] | None:
    """What decides the size of its method; None where nothing does."""
    return KNOBS.get(experiment.adapter["peft_type"]) if experiment.adapter else None


def sizes_of(knob: dict[str, Any]) -> "list[int] | range":
    """The sizes there are, in order."""
    return knob.get("values") or range(1, knob.get("most", MOST) + 1)


def _around(counted: Callable[[int], int], values: "list[int] | range", target: int) -> list[int]:
    """The last size that stays below the target, if there is one, and the next; counts rise with the size."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        try:
            above = counted(values[middle]) > target
        except ExcitorError:  # SHiRA and OFT refuse what is larger than the layer
            above = True
        low, high = (low, middle) if above else (middle + 1, high)
    found = [values[place] for place in (low - 1, low) if 0 <= place < len(values)]
    return [size for size in found if _works(counted, size)]


def _works(counted: Callable[[int], int], size: int) -> bool:
    try:
        return counted(size) > 0
    except ExcitorError:
        return False


def sized(adapter: dict[str, Any], knob: dict[str, Any], size: int) -> dict[str, Any]:
    """The adapter at a size; what goes in step keeps its ratio to it, so that scales stay the same."""
    name = knob["size"]
    ratio = size / adapter[name] if name in adapter else 1.0
    grown = {other: ratio * adapter[other] for other in knob.get("in_step", ()) if other in adapter}
    return adapter | {name: size} | grown


def _between(adapter: dict[str, Any], knob: dict[str, Any], config: PretrainedConfig) -> Iterable[dict[str, Any]]:
    """Sizes between two: the lowest layers have one more."""
    size = adapter[knob["size"]]
    for number in range(1, config.get_text_config().num_hidden_layers):
        lowest = rf"[a-z_]+\.({'|'.join(map(str, range(number)))})\..*"
        grown = {
            pattern: {lowest: adapter[other] * (size + 1) / size}
            for other, pattern in knob.get("in_step", {}).items()
            if other in adapter
        }
        yield adapter | {knob["pattern"]: {lowest: size + 1}} | grown
