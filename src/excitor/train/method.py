"""The method that a run trains: Excitor, or any other of PEFT's."""

import json
import warnings
from pathlib import Path
from typing import Any

from peft import PeftConfig

from excitor import bottleneck as _bottleneck  # noqa: F401  (registers it)
from excitor.combined import CombinedConfig
from excitor.config import ExcitorConfig
from excitor.errors import ExcitorError
from excitor.train.arguments import METHOD_FIELDS, TrainArguments


LORA_RANK = 8
LORA_MODULES = ("q_proj", "v_proj", "o_proj")


def read_method(arguments: TrainArguments, vision_width: int | None = None) -> PeftConfig:
    """The configuration that the arguments ask for.

    Args:
        arguments: Of the run.
        vision_width: Of the features of pictures; None for a run without.

    Raises:
        ExcitorError: ``adapter_config`` names no file with the configuration of a PEFT method, or a field of Excitor's
            is out of range or does not go with another.
    """
    if arguments.adapter_config:
        return _read_config(Path(arguments.adapter_config))
    preset = ExcitorConfig if arguments.preset in (None, "default") else ExcitorConfig.paper
    try:
        method = preset(task_type="CAUSAL_LM", vision_width=vision_width, **arguments.method())
    except ExcitorError as error:
        if "init_weights" not in str(error):
            raise
        raise ExcitorError(f"{error} On the command line init_weights=True is --no-identity-start.") from error
    return _with_lora(method) if arguments.preset == "scienceqa" else method


def _with_lora(method: ExcitorConfig) -> CombinedConfig:
    """The paper's best on ScienceQA: Excitor on the keys, LoRA on the other projections of attention."""
    excitor = {name: value for name, value in method.to_dict().items() if value is not None}
    lora = {"peft_type": "LORA", "r": LORA_RANK, "lora_alpha": 2 * LORA_RANK, "target_modules": list(LORA_MODULES)}
    return CombinedConfig(task_type="CAUSAL_LM", parts=[excitor, lora])


def resolved_fields(method: PeftConfig) -> dict[str, Any]:
    """What the arguments' own fields are for Excitor, defaults written out; nothing for another method."""
    if not isinstance(method, ExcitorConfig):
        return {}
    names = set(METHOD_FIELDS) - {"identity_start", "target_modules"}
    return {name: getattr(method, name) for name in names} | {"identity_start": method.init_weights == "identity"}


def _read_config(path: Path) -> PeftConfig:
    expected = 'a JSON object like {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj", "v_proj"]}'
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExcitorError(
            f"--adapter-config {path} cannot be read: {error.strerror}. Expected {expected}."
        ) from error
    except ValueError as error:
        raise ExcitorError(f"--adapter-config {path} is not JSON: {error}. Expected {expected}.") from error
    if not isinstance(values, dict) or "peft_type" not in values:
        raise ExcitorError(f"--adapter-config {path} names no peft_type. Expected {expected}.")
    return make_method(values, f"--adapter-config {path}")


def make_method(values: dict[str, Any], source: str) -> PeftConfig:
    """The configuration of a PEFT method from its fields.

    Args:
        values: As in ``adapter_config.json``, ``peft_type`` among them.
        source: Where they come from, as a message should name it.

    Raises:
        ExcitorError: PEFT knows no such method, or the method no such field or value, or it is not for causal language
            models.
    """
    values = {"task_type": "CAUSAL_LM"} | values
    try:
        with warnings.catch_warnings():
            # PEFT only warns of keys it does not know, and leaves them out
            warnings.filterwarnings("error", message="Unexpected keyword arguments")
            config = PeftConfig.from_peft_type(**values)
    except KeyError as error:
        raise ExcitorError(f"{source}: PEFT knows no method {values['peft_type']!r}.") from error
    except (TypeError, ValueError, UserWarning) as error:
        raise ExcitorError(f"{source}: {error}") from error
    if not isinstance(config, PeftConfig) or config.task_type != "CAUSAL_LM":
        raise ExcitorError(f"{source}: task_type is {config.task_type}, expected CAUSAL_LM.")
    config.inference_mode = False  # as a finished adapter's file has it
    return config
