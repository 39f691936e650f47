"""Where the doctor's signs come from: the files of a run, and what was measured on text."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from excitor.diagnostics.doctor import Finding, Signs, diagnose
from excitor.diagnostics.files import describe
from excitor.train.folder import METRICS_FILE, read_metrics


if TYPE_CHECKING:
    from excitor.diagnostics.measure import Measurement


MOST_WINDOWS = 20  # a run is smoothed over a twentieth of its records,
LEAST_WINDOW = 5  # but over no fewer than these: batches differ


def check_run(folder: Path, measurement: "Measurement | None" = None) -> list[Finding]:
    """What is wrong with the adapter that a training run left in ``folder``.

    Args:
        folder: Of the run. The adapter is read, ``report.json`` and ``metrics.jsonl`` where they are.
        measurement: Of the same adapter at strength 1, where there is one.

    Raises:
        ExcitorError: There is no Excitor adapter, or a file is damaged.
    """
    signs = signs_of_run(folder, describe(folder))
    return diagnose(signs | signs_of_measurement(measurement) if measurement else signs)


def signs_of_run(folder: Path, adapter: dict[str, Any]) -> Signs:
    """Signs from the files of a run.

    Args:
        folder: Of the run; holds ``metrics.jsonl``, if it was trained by ``excitor train``.
        adapter: What :func:`excitor.diagnostics.files.describe` says about it.
    """
    gates = [sum(map(abs, layer["gates"])) / len(layer["gates"]) for layer in adapter["layers"] if layer["gates"]]
    spreads = [layer["prompt_spread"] for layer in adapter["layers"] if layer["prompt_spread"] is not None]
    metrics, report = folder / METRICS_FILE, adapter["report"]
    losses = [record["loss"] for record in read_metrics(metrics)] if metrics.exists() else []
    return Signs(
        learned=report and report["learned"]["change"] / report["learned"]["base"],
        forgotten=report and report["forgotten"]["change"],
        kl=report and report["forgotten"]["kl"],
        loss_rise=loss_rise(losses),
        gate_spread=max(gates) / statistics.median(gates) if gates and statistics.median(gates) else None,
        prompt_spread=max(spreads, default=None),
    )


def signs_of_measurement(measurement: "Measurement") -> Signs:
    """Signs from what was measured; with a single prompt its share says nothing."""
    return Signs(shift=measurement.mean_shift, top_share=measurement.top_share)


def loss_rise(losses: Sequence[float]) -> float | None:
    """Largest rise of the smoothed loss over its lowest before, in shares of its first; None for too few records."""
    window = max(LEAST_WINDOW, len(losses) // MOST_WINDOWS)
    smooth = [sum(losses[at : at + window]) / window for at in range(len(losses) - window + 1)]
    if not smooth:
        return None
    lowest, rise = smooth[0], 0.0
    for value in smooth:
        lowest = min(lowest, value)
        rise = max(rise, value - lowest)
    return rise / smooth[0]
