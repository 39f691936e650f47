import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from excitor.train.arguments import TrainArguments


@pytest.fixture
def data(tmp_path) -> str:
    """Twelve instructions of different lengths."""
    path = tmp_path / "data.jsonl"
    rows = [{"instruction": f"Say {'abc'[i % 3]} {i % 5} times", "output": "abc"[i % 3] * (i + 1)} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def text(tmp_path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("Once there was a cat.\n\nThe cat sat on the mat.\n\nThen it rained.\n")
    return str(path)


@pytest.fixture
def arguments(base_dir, data, text, tmp_path):
    """Arguments of a run of seconds, changed by keyword."""

    def make(**changes) -> TrainArguments:
        values = {
            "model": base_dir,
            "data": [data],
            "out": str(tmp_path / "out"),
            "retain": [text],
            "steps": 6,
            "save_steps": 2,
            "batch_size": 4,
            "eval_rows": 2,
            "num_prompts": 4,
            "r": 2,
            "learning_rate": 0.05,
        }
        return TrainArguments(**(values | changes))

    return make


@pytest.fixture
def console() -> Console:
    """Keeps what is printed for ``export_text``."""
    return Console(width=200, record=True, file=io.StringIO())


def metrics_of(folder) -> list[dict]:
    """What must repeat: everything logged but the speed."""
    records = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    times = ("tokens_per_second", "data_share", "preservation_seconds")
    return [{key: value for key, value in record.items() if key not in times} for record in records]
