"""What a training run writes down about itself, for those who use its adapter later."""

import os
from pathlib import Path
from typing import Any

import yaml


RUN_FILE = "run.yaml"


def read_run(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Arguments of the run that made an adapter, by name; empty where ``excitor train`` left none in this folder."""
    file = Path(directory) / RUN_FILE
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
