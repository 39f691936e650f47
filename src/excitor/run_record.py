"""What a training run writes down about itself, for those who use its adapter later."""

import os
from pathlib import Path
from typing import Any

import yaml

from .errors import ExcitorError


RUN_FILE = "run.yaml"


def read_run(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Arguments of the run that made an adapter, by name; empty where ``excitor train`` left none in this folder.

    Raises:
        ExcitorError: The file is damaged.
    """
    file = Path(directory) / RUN_FILE
    if not file.exists():
        return {}
    try:
        run = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExcitorError(f"{file} is damaged, not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(run, dict):
        raise ExcitorError(f"{file} is damaged: expected lines like 'model: NAME', as excitor train writes them.")
    return run
