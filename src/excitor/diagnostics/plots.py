"""Pictures of a measurement."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from excitor.diagnostics.measure import LayerMeasure, Measurement
from excitor.diagnostics.moves import AttentionMap


MOST_LABELS = 60  # tokens of a document that still have room for their text


def draw_shift(measurement: Measurement, path: Path) -> None:
    """Draw how much attention moves, by layer (upwards) and query head."""
    layers = measurement.layers
    figure = Figure(figsize=(2.5 + 0.3 * len(layers[0].shift), 2.5 + 0.2 * len(layers)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow([layer.shift for layer in layers], cmap="magma", vmin=0, origin="lower", aspect="auto")
    axes.set_yticks(range(len(layers)), [str(layer.index) for layer in layers])
    axes.set(xlabel="query head", ylabel="layer")
    figure.colorbar(image, label="attention shift (total variation)")
    figure.savefig(path, dpi=120)


def draw_usage(measurement: Measurement, path: Path) -> None:
    """Draw how the weight is spread over the prompts, by layer; dots are key heads."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    layers = measurement.layers
    _dots(axes, layers, [[_share(each, layer.max_entropy) for each in layer.entropy] for layer in layers], "entropy")
    _dots(axes, layers, [layer.top_share for layer in layers], "share of the most used global prompt")
    if layers[0].local_share is not None:
        _dots(axes, layers, [layer.local_share or [] for layer in layers], "share of the local prompts")
    if layers[0].null_share is not None:
        _dots(axes, layers, [layer.null_share or [] for layer in layers], "share of the null prompt")
    axes.set(xlabel="layer", ylabel="entropy over its maximum, share of weight", ylim=(-0.02, 1.02))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def draw_drift(measurement: Measurement, path: Path) -> None:
    """Draw how far keys and hidden states are from what they would be without the adapter, by layer."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    _dots(axes, measurement.layers, [layer.key_drift for layer in measurement.layers], "keys, each key head")
    axes.plot([drift.distance for drift in measurement.hidden], "s-", label="hidden states: distance")
    axes.plot([1 - drift.cosine for drift in measurement.hidden], "^-", label="hidden states: 1 - cosine")
    axes.set(xlabel="layer", ylabel="change, relative to the base")
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def draw_attention(attention: AttentionMap, tokens: Sequence[str], path: Path) -> None:
    """Draw where the attention of a head moved from (red) and to (blue).

    Args:
        attention: Of M tokens.
        tokens: Their text, M of them.
        path: Of the PNG.
    """
    size = 2 + 0.16 * min(len(tokens), MOST_LABELS)
    figure = Figure(figsize=(size + 1.2, size), layout="constrained")
    axes = figure.subplots()
    largest = attention.change.abs().max().item() or 1.0
    image = axes.imshow(attention.change, cmap="RdBu", vmin=-largest, vmax=largest)
    if len(tokens) <= MOST_LABELS:
        names = [printable(token) for token in tokens]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set(
        xlabel="attended token",
        ylabel="attending token",
        title=f"layer {attention.layer}, query head {attention.head}",
    )
    figure.colorbar(image, label="attention lost (red), gained (blue)")
    figure.savefig(path, dpi=120)


def _dots(axes: Axes, layers: Sequence[LayerMeasure], values: Sequence[Sequence[float]], label: str) -> None:
    """A dot for each head and a line through the means."""
    places = [layer.index for layer in layers]
    means = [sum(heads) / len(heads) for heads in values]
    (line,) = axes.plot(places, means, label=label)
    for place, heads in zip(places, values, strict=True):
        axes.plot([place] * len(heads), heads, "o", markersize=3, alpha=0.5, color=line.get_color())


def _share(value: float, most: float) -> float:
    return value / most if most else 0.0


def printable(token: str) -> str:
    """A token's text with control characters written out, for matplotlib, which reads $ as mathematics."""
    return repr(token)[1:-1].replace("$", r"\$")
