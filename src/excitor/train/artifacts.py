"""What a finished run leaves for people: curves and a model card."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from excitor.evaluate.report import markdown_table
from excitor.run_record import RUN_FILE
from excitor.train.arguments import TrainArguments
from excitor.train.folder import CURVES_FILE
from excitor.train.preserve import verdict


_STRENGTH = " `excitor.set_strength(model, 0.5)` halves the effect, 0 gives the base back."


def draw_curves(metrics: list[dict[str, Any]], path: Path) -> None:
    """Draw the loss over the steps, and beside it the preservation losses and the gates where there are some.

    Args:
        metrics: Records as :class:`~excitor.train.callbacks.MetricsLog` writes them.
        path: Of the PNG.
    """
    steps = [record["step"] for record in metrics]
    losses = [record["loss"] for record in metrics]
    names = list(metrics[0]["gates"])
    parts = list(dict.fromkeys(name for record in metrics for name in record.get("parts", ())))
    columns = 1 + bool(parts) + bool(names)
    figure = Figure(figsize=(5 * columns, 4), layout="constrained")
    loss_axes, *others = figure.subplots(1, columns, squeeze=False)[0]
    loss_axes.plot(steps, losses, linewidth=0.8, alpha=0.4, label="each step")
    loss_axes.plot(steps, _smooth(losses), linewidth=1.6, color="C0", label="running mean")
    loss_axes.set(xlabel="step", ylabel="training loss (nats per answer token)")
    loss_axes.legend()
    if parts:
        _draw_parts(others.pop(0), metrics, parts)
    for gate_axes in others:
        for number, name in enumerate(names):
            shade = f"{0.8 - 0.8 * number / max(1, len(names) - 1):.2f}"
            gate_axes.plot(steps, [record["gates"][name] for record in metrics], color=shade, linewidth=1)
        gate_axes.set(xlabel="step", ylabel="mean |gate| of a layer (upper layers darker)")
    figure.savefig(path, dpi=120)


def _draw_parts(axes: Axes, metrics: list[dict[str, Any]], names: list[str]) -> None:
    for name in names:
        drawn = [record for record in metrics if name in record["parts"]]
        axes.plot(
            [record["step"] for record in drawn], _smooth([record["parts"][name] for record in drawn]), label=name
        )
    positive = any(value > 0 for record in metrics for value in record["parts"].values())  # a logarithm needs one
    axes.set(xlabel="step", ylabel="preservation losses, without weights (running mean)")
    axes.set_yscale("log" if positive else "linear")
    axes.legend()


def model_card(arguments: TrainArguments, report: dict[str, Any], method: str = "EXCITOR") -> str:
    """The README.md of an adapter: what it is, how to load it, what it learned and what it forgot."""
    base = str(arguments.model)
    header = ["library_name: peft", "tags:", "- excitor", "- peft"]
    if not Path(base).exists():  # the hub wants one of its own ids here
        header.insert(0, f"base_model: {base}")
    training, parameters = report["training"], report["parameters"]
    name = Path(str(arguments.out)).resolve().name
    kept = "".join(f"\n\n{line}" for line in verdict(report))
    return f"""---
{chr(10).join(header)}
---

# {name}

{_introduction(method)} for `{base}`{_loaded(arguments)}{_sight(arguments)}: {parameters["trainable"]:,} parameters,
{parameters["share"]:.2%} of the adapted model.

## What it learned, what it forgot

{markdown_table(report)}

Cross-entropy in nats per token, the adapter against the same model with the adapter off. *Learned* is measured on the
answers of held-out rows of the training data, *forgotten* on text that is not instructions. *KL* is
KL(base || adapter) in nats per token; *flipped* is the share of tokens whose most likely prediction is another
one.{kept}

![loss and gates]({CURVES_FILE})

## Use

```python
import excitor  # makes the method known to PEFT; must come before loading

model, tokenizer = excitor.load_adapter("{name}")
```

or {_use(arguments, name)}.{_STRENGTH if method == "EXCITOR" else ""}

## Training

{speed_line(training)}. Data:
{", ".join(f"`{source}`" for source in arguments.data)}. Repeat it with

```
excitor train --config {RUN_FILE} --out ANOTHER_FOLDER
```
"""


def _introduction(method: str) -> str:
    if method != "EXCITOR":
        return f"A {method} adapter"
    source = "[arXiv 2404.00913](https://arxiv.org/abs/2404.00913)"
    return f"An Excitor adapter ({source}), which changes only where attention looks,"


def _use(arguments: TrainArguments, name: str) -> str:
    if arguments.vision_model is None:
        return f"`excitor chat --adapter {name}`"
    return f"`excitor caption PICTURE --adapter {name}` and `excitor ask PICTURE QUESTION --adapter {name}`"


def _loaded(arguments: TrainArguments) -> str:
    bits = 4 if arguments.load_in_4bit else 8 if arguments.load_in_8bit else None
    return f" in {bits} bits" if bits else ""


def _sight(arguments: TrainArguments) -> str:
    return f" that sees through `{arguments.vision_model}`" if arguments.vision_model else ""


def training_summary(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Steps, tokens and time of a run, all its sessions together, from its metrics.

    Returns:
        ``steps``, ``tokens`` (without padding), ``seconds``, ``loss`` (the last), ``tokens_per_second``,
        ``data_share`` (of the time, what was spent waiting for batches) and ``padding`` (of all positions, the share
        without a token).
    """
    seconds, waited, tokens, positions = 0.0, 0.0, 0, 0.0
    for record in metrics:
        read = record["tokens"] - tokens
        tokens = record["tokens"]
        seconds += read / record["tokens_per_second"]
        waited += read / record["tokens_per_second"] * record["data_share"]
        positions += read / (1 - record["padding"])
    return {
        "steps": metrics[-1]["step"],
        "tokens": tokens,
        "seconds": seconds,
        "loss": metrics[-1]["loss"],
        "tokens_per_second": tokens / seconds,
        "data_share": waited / seconds,
        "padding": 1 - tokens / positions,
    }


def speed_line(training: dict[str, Any]) -> str:
    """Speed of a run in one sentence, from ``training_summary``."""
    return (
        f"{training['steps']:,} steps, {training['tokens']:,} tokens in {training['seconds']:,.0f} s: "
        f"{training['tokens_per_second']:,.0f} tokens/s, {training['data_share']:.1%} of the time waiting for data, "
        f"{training['padding']:.1%} padding"
    )


def _smooth(values: list[float], keep: float = 0.95) -> list[float]:
    """Exponential running mean, unbiased at the start."""
    smoothed, mean, weight = [], 0.0, 0.0
    for value in values:
        mean = keep * mean + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        smoothed.append(mean / weight)
    return smoothed
