"""What an adapter is, read from its files alone."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from excitor.checkpoint import check_finite
from excitor.config import ExcitorConfig
from excitor.errors import ExcitorError


KEY = re.compile(r"(?:base_model\.model\.)?(?P<layer>.+)\.excitor_(?:processor|generator|visual)\.(?P<part>\w+)")
TABLES = ("prompts", "value_prompts")


def describe(directory: Path) -> dict[str, Any]:
    """Reads an adapter's files without its base model.

    Returns:
        ``config`` (what adapter_config.json says of Excitor and is not empty), ``parameters`` (``total`` and a count
        for each part), ``file_bytes``, ``layers`` (from the bottom up, see below), and ``report`` (of the training
        run; None if there is none). A layer has its ``name``; ``gates`` over key heads, or one for all of them, None
        where the method has none; ``prompt_norm``: mean length of its prompts, and ``prompt_spread``: length of the
        longest one over the median, the larger of keys and values; None where an MLP makes the prompts, or the median
        is 0.

    Raises:
        ExcitorError: the folder holds no adapter, one of another method, or a damaged one.
    """
    if directory.is_file():
        raise ExcitorError(f"{directory} is a file; expected an adapter folder, as excitor train writes it.")
    config = _excitor_config(
        _read_json(directory / "adapter_config.json", "an adapter folder, as excitor train writes it"), directory
    )
    weights = directory / "adapter_model.safetensors"

    parts: Counter[str] = Counter()
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _read_tensors(weights).items():
        check_finite(name, tensor, weights)
        key = KEY.fullmatch(name)
        parts[key["part"] if key else "other modules"] += tensor.numel()
        if key:
            layers.setdefault(key["layer"], {})[key["part"]] = tensor.float()
    expected = _expected_parts(config)
    missing = [f"no {part} in {layer}" for layer, held in layers.items() for part in expected if part not in held]
    if missing or not layers:
        raise ExcitorError(f"{weights} is damaged: {missing[0] if missing else 'it holds no layer'}.")

    report = directory / "report.json"
    return {
        "directory": str(directory),
        "config": {
            key: value for key, value in config.items() if value not in (None, [], {}) and key != "auto_mapping"
        },
        "parameters": {"total": parts.total(), **parts},
        "file_bytes": weights.stat().st_size,
        "layers": [_describe_layer(layer, layers[layer]) for layer in sorted(layers, key=_natural)],
        "report": _read_report(report) if report.exists() else None,
    }


def _excitor_config(config: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The configuration of Excitor, where it is one of several methods with ``combined_with``, the others."""
    if config.get("peft_type") == "EXCITOR":
        return config
    parts = config.get("parts", []) if config.get("peft_type") == "COMBINED" else []
    excitor = [part for part in parts if part.get("peft_type") == "EXCITOR"]
    if not excitor:
        raise ExcitorError(
            f"{directory} holds an adapter of type {config.get('peft_type')}; expected EXCITOR, or COMBINED with "
            "EXCITOR among its parts."
        )
    # A part may leave out what is as by default; fields that all parts share stand beside them.
    shared = {key: value for key, value in config.items() if key not in ("parts", "peft_type")}
    others = [part["peft_type"] for part in parts if part is not excitor[0]]
    return ExcitorConfig().to_dict() | shared | excitor[0] | {"combined_with": others}


def _expected_parts(config: dict[str, Any]) -> list[str]:
    """Tensors that every layer has; what is not in the file is as it was before there was a choice."""
    parts = ["A", "B"]
    if config.get("gate", "head") != "none":
        parts.append("gate")
    if config.get("generator", "table") == "table" and config.get("num_prompts"):
        parts.append("prompts")
    if config.get("num_local_prompts"):
        parts.append("local")
    if config.get("vision_width"):
        parts += ["key_map", "value_map"]
    return parts


def _describe_layer(name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    norms = {part: tensors[part].norm(dim=-1) for part in TABLES if part in tensors and len(tensors[part])}
    spreads = [(norm.max() / norm.median()).item() for norm in norms.values() if norm.median() > 0]
    return {
        "name": name,
        "gates": tensors["gate"].tolist() if "gate" in tensors else None,
        "prompt_norm": norms["prompts"].mean().item() if "prompts" in norms else None,
        "prompt_spread": max(spreads, default=None),
    }


def _read_report(path: Path) -> dict[str, Any]:
    report = _read_json(path, "a training report")
    try:
        numbers = [report["learned"]["change"], report["learned"]["base"]]
        numbers += [report["forgotten"]["change"], report["forgotten"]["kl"]]
    except (KeyError, TypeError) as error:
        raise ExcitorError(f"{path} is damaged: it does not hold what excitor train measured ({error}).") from error
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise ExcitorError(f"{path} is damaged: expected numbers, got {numbers}.")
    return report


def _read_json(path: Path, expected: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExcitorError(f"{path} does not exist: {path.parent} is not {expected}.") from error
    except ValueError as error:
        raise ExcitorError(f"{path} is damaged, not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ExcitorError(f"{path} is damaged: it must hold a JSON object.")
    return value


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ExcitorError(f"{path} does not exist: the adapter was not saved completely.") from error
    except SafetensorError as error:
        raise ExcitorError(f"{path} is damaged: {error}.") from error


def _natural(name: str) -> list[str | int]:
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", name)]
