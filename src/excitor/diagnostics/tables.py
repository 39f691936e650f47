"""What ``excitor inspect`` shows on a terminal."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from excitor.diagnostics.doctor import Finding


if TYPE_CHECKING:
    from excitor.diagnostics.measure import LayerMeasure, Measurement
    from excitor.diagnostics.moves import AttentionMap
    from excitor.diagnostics.picture_inspection import PictureInspection


NUMBERS_UP_TO = 8  # heads whose gates still fit a line as numbers; more are drawn as shades
MOVES = 3


def facts_table(adapter: dict[str, Any]) -> Table:
    """Configuration, parameters and size of an adapter, as :func:`excitor.diagnostics.files.describe` gives them."""
    table = Table(show_header=False, box=None, title=f"Adapter {adapter['directory']}", title_justify="left")
    for key, value in sorted(adapter["config"].items()):
        table.add_row(key, str(value))
    for part, count in adapter["parameters"].items():
        table.add_row(f"parameters: {part}", f"{count:,}")
    table.add_row("file size", decimal(adapter["file_bytes"]))
    return table


def gates_table(layers: list[dict[str, Any]]) -> Table:
    """Gates and length of the prompts, layer by layer."""
    shapes = {re.sub(r"\d+", "*", layer["name"]) for layer in layers}
    gates = [layer["gates"] for layer in layers if layer["gates"]]
    largest = max((abs(gate) for heads in gates for gate in heads), default=1.0)
    table = Table(title=f"{', '.join(shapes)}: largest gate {largest:.4f}", title_justify="left", box=None)
    if not gates:
        table.title, heads = f"{', '.join(shapes)}: no gates", "gates"
    else:
        heads = "gate" if len(gates[0]) == 1 else f"gates of key heads 0 to {len(gates[0]) - 1}"
    for heading in ("layer", heads, "mean |g|", "prompt norm"):
        table.add_column(heading, justify="left" if heading == heads else "right", no_wrap=True)
    for layer in layers:
        norm = layer["prompt_norm"]
        table.add_row(
            _number(layer["name"]) if len(shapes) == 1 else layer["name"],
            _gate_line(layer["gates"], largest) if layer["gates"] else "fixed at 1",
            f"{_mean([abs(gate) for gate in layer['gates'] or [1.0]]):.4f}",
            "" if norm is None else f"{norm:.3f}",
        )
    return table


def measurement_table(measurement: "Measurement") -> Group:
    """What an adapter does, layer by layer, and what the columns are."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    has_local, has_null = (getattr(measurement.layers[0], f"{kind}_share") is not None for kind in ("local", "null"))
    headings = ["layer", "shift", "largest", "bound", "entropy", "top"]
    headings += ["local"] * has_local + ["null"] * has_null + ["keys", "cosine", "distance"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in measurement.layers:
        drift = measurement.hidden[layer.index]
        table.add_row(
            str(layer.index),
            f"{_mean(layer.shift):.4f}",
            f"{max(layer.shift_max):.4f}",
            f"{max(layer.bound):.4f}",
            _share(layer),
            f"{_mean(layer.top_share):.1%}",
            *(f"{_mean(share):.1%}" for share in (layer.local_share, layer.null_share) if share is not None),
            f"{_mean(layer.key_drift):.3f}",
            f"{drift.cosine:.4f}",
            f"{drift.distance:.4f}",
        )
    title = Text(f"Measured on {measurement.tokens:,} tokens (documents: {measurement.documents:,})", style="italic")
    note = Text(
        "shift: total variation between attention with and without the adapter, 0 to 1, mean over heads and tokens; "
        "largest and bound: of any head and token; entropy: of the weights over the prompts, 100% is equal weights; "
        "top: share of the most used global prompt; "
        + "local: share of the local prompts; " * has_local
        + "null: share of the null prompt; " * has_null
        + "keys: length of the term over length of the key; cosine, distance: of the hidden states to the base's.",
        style="dim",
    )
    return Group(title, table, note)


def moves_table(attention: "AttentionMap", tokens: Sequence[str]) -> Group:
    """The largest moves of attention in one head, with the tokens in words."""
    title = f"Where attention moved most in layer {attention.layer}, query head {attention.head}"
    table = Table(box=None)
    for heading in ("at token", "from", "to", "moved"):
        table.add_column(heading, justify="right" if heading == "moved" else "left")
    for move in attention.largest_moves(MOVES):
        places = [Text(f"{place} {tokens[place]!r}") for place in (move.at, move.source, move.target)]
        table.add_row(*places, f"{move.amount:.3f}")
    return Group(Text(title, style="italic"), table)


def picture_table(inspection: "PictureInspection", listed: int) -> Group:
    """The words whose attention a picture raises and lowers most, and what in it does so.

    Args:
        inspection: Of the picture.
        listed: Words that rose, and as many that fell.
    """
    layers = ", ".join(map(str, inspection.layers))
    where = f"layers {layers}" + (f", query head {inspection.head}" if inspection.head is not None else "")
    lines = [f"{'Answered' if inspection.generated else 'Given answer'}: {inspection.answer!r}"]
    lines.append(f"Attention to each token with the picture and without it, in % of all ({where})")
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("token", "without", "with", "change", "patches", "others", "learnable", "patch"):
        table.add_column(heading, justify="left" if heading == "token" else "right", no_wrap=True)
    for word in (*inspection.raised(listed), *reversed(inspection.fallen(listed))):
        row, column = inspection.strongest_patch(word)
        values = (word.change, word.patches, word.other_features, word.learnable)
        table.add_row(
            Text(f"{word.at} {word.text!r}"),
            f"{100 * word.without:.2f}",
            f"{100 * word.seeing:.2f}",
            *(f"{100 * value:+.2f}" for value in values),
            f"{row},{column}",
        )
    sources = inspection.sources()
    note = Text(
        f"patches, others, learnable: what of the change is theirs; over all tokens {sources['patches']:.0%} of what "
        f"moves is the patches', {sources['other_features']:.0%} that of features without a place in the picture "
        f"(class token), {sources['learnable']:.0%} that of learnable prompts, whose weights the picture changes; "
        f"patch: row and column of the one that did most, of {inspection.maps.shape[1]} x {inspection.maps.shape[2]}.",
        style="dim",
    )
    return Group(*(Text(line, style="italic") for line in lines), table, note)


def findings_text(findings: Sequence[Finding]) -> Text:
    """The doctor's findings, or that there are none."""
    if not findings:
        return Text("Doctor: no sign of over-modification, under-modification or imbalance.")
    text = Text("Doctor")
    for finding in findings:
        text.append(f"\n{finding.name}", style="bold red")
        text.append("".join(f"\n  {evidence}" for evidence in finding.evidence))
        text.append(f"\n  {finding.advice}")
    return text


def _gate_line(gates: list[float], largest: float) -> Text:
    """Numbers, or a shade for each head where there are many; blue is positive, red negative, bright is large."""
    line = Text()
    for gate in gates:
        share = abs(gate) / largest if largest else 0.0
        hue = (90, 160, 255) if gate > 0 else (255, 100, 90)
        colour = ",".join(str(round(70 + share * (channel - 70))) for channel in hue)
        text = f"{gate:+.4f}  " if len(gates) <= NUMBERS_UP_TO else "·░▒▓█"[round(4 * share)]
        line.append(text, style=f"rgb({colour})")
    return line


def _number(name: str) -> str:
    number = re.search(r"\d+", name)
    return number.group() if number else name


def _share(layer: "LayerMeasure") -> str:
    """Entropy over its maximum; a single prompt has no choice."""
    return f"{_mean(layer.entropy) / layer.max_entropy:.0%}" if layer.max_entropy else ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
