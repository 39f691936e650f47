"""``excitor inspect``: what an adapter is, read from its files alone."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from excitor.errors import ExcitorError


if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


EXAMPLES = """\b
Example:
  excitor inspect runs/first"""
KEY = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.excitor_(?:processor|generator)\.(?P<part>\w+)")
NUMBERS_UP_TO = 8  # heads whose gates still fit a line as numbers; more are drawn as shades


def inspect(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that excitor train wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what an adapter is.

    Its configuration, base model, parameters, and the gates of every layer and head; the base model is not needed.
    """
    adapter = describe(directory)
    if as_json:
        typer.echo(json.dumps(adapter))
        return

    from rich.console import Console

    console = Console(highlight=False)
    console.print(_facts(adapter))
    console.print(_gates(adapter["layers"]))
    if adapter["report"]:
        from excitor.evaluate.report import table

        console.print(table(adapter["report"]))


def describe(directory: Path) -> dict[str, Any]:
    """Reads an adapter's files without its base model.

    Returns:
        ``config`` (what adapter_config.json says and is not empty), ``parameters`` (``total`` and a count for each
        part), ``file_bytes``, ``layers`` (name, ``gates`` as a list over key heads, ``prompt_norm``: mean length of
        its prompts) from the bottom up, and ``report`` (of the training run; None if there is none).

    Raises:
        ExcitorError: the folder holds no adapter, one of another method, or a damaged one.
    """
    config = _read_json(directory / "adapter_config.json", "an adapter folder, as excitor train writes it")
    if config.get("peft_type") != "EXCITOR":
        raise ExcitorError(f"{directory} holds an adapter of type {config.get('peft_type')}; expected EXCITOR.")
    weights = directory / "adapter_model.safetensors"
    tensors = _read_tensors(weights)

    parts: Counter[str] = Counter()
    layers: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        key = KEY.fullmatch(name)
        parts[key["part"] if key else "other modules"] += tensor.numel()
        if key:
            layers.setdefault(key["layer"], {})[key["part"]] = tensor.float()
    damaged = [layer for layer, held in layers.items() if not {"gate", "prompts"} <= held.keys()]
    if damaged or not layers:
        raise ExcitorError(f"{weights} is damaged: no gate or no prompts in {', '.join(damaged) or 'any layer'}.")

    report = directory / "report.json"
    return {
        "directory": str(directory),
        "config": {
            key: value for key, value in config.items() if value not in (None, [], {}) and key != "auto_mapping"
        },
        "parameters": {"total": parts.total(), **parts},
        "file_bytes": weights.stat().st_size,
        "layers": [
            {
                "name": layer,
                "gates": layers[layer]["gate"].tolist(),
                "prompt_norm": layers[layer]["prompts"].norm(dim=-1).mean().item(),
            }
            for layer in sorted(layers, key=_natural)
        ],
        "report": _read_json(report, "a training report") if report.exists() else None,
    }


def _read_json(path: Path, expected: str) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExcitorError(f"{path} does not exist: {path.parent} is not {expected}.") from error
    except ValueError as error:
        raise ExcitorError(f"{path} is damaged, not JSON: {error}.") from error


def _read_tensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ExcitorError(f"{path} does not exist: the adapter was not saved completely.") from error
    except SafetensorError as error:
        raise ExcitorError(f"{path} is damaged: {error}.") from error


def _natural(name: str) -> list[str | int]:
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", name)]


def _facts(adapter: dict[str, Any]) -> "Table":
    from rich.filesize import decimal
    from rich.table import Table

    table = Table(show_header=False, box=None, title=f"Adapter {adapter['directory']}", title_justify="left")
    for key, value in sorted(adapter["config"].items()):
        table.add_row(key, str(value))
    for part, count in adapter["parameters"].items():
        table.add_row(f"parameters: {part}", f"{count:,}")
    table.add_row("file size", decimal(adapter["file_bytes"]))
    return table


def _gates(layers: list[dict[str, Any]]) -> "Table":
    from rich.table import Table

    shapes = {re.sub(r"\d+", "*", layer["name"]) for layer in layers}
    largest = max(abs(gate) for layer in layers for gate in layer["gates"])
    table = Table(title=f"{', '.join(shapes)}: largest gate {largest:.4f}", title_justify="left", box=None)
    heads = f"gates of key heads 0 to {len(layers[0]['gates']) - 1}"
    for heading in ("layer", heads, "mean |g|", "prompt norm"):
        table.add_column(heading, justify="left" if heading == heads else "right", no_wrap=True)
    for layer in layers:
        number = re.search(r"\d+", layer["name"])
        gates = _gate_line(layer["gates"], largest)
        mean = sum(map(abs, layer["gates"])) / len(layer["gates"])
        name = number.group() if number and len(shapes) == 1 else layer["name"]
        table.add_row(name, gates, f"{mean:.4f}", f"{layer['prompt_norm']:.3f}")
    return table


def _gate_line(gates: list[float], largest: float) -> "Text":
    """Numbers, or a shade for each head where there are many; blue is positive, red negative, bright is large."""
    from rich.text import Text

    line = Text()
    for gate in gates:
        share = abs(gate) / largest if largest else 0.0
        hue = (90, 160, 255) if gate > 0 else (255, 100, 90)
        colour = ",".join(str(round(70 + share * (channel - 70))) for channel in hue)
        text = f"{gate:+.4f}  " if len(gates) <= NUMBERS_UP_TO else "·░▒▓█"[round(4 * share)]
        line.append(text, style=f"rgb({colour})")
    return line
