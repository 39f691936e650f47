"""What is logged of a run."""

import json
import math
from types import SimpleNamespace

import pytest
from torch import nn
from transformers import TrainerControl, TrainerState

from excitor.errors import NonFiniteError
from excitor.train.callbacks import OVERFLOWS, MetricsLog
from excitor.train.run import train


def logged(path, norms: list[float], *, fp16: bool) -> list[float | None]:
    """Write lines with these norms of the gradient; what the file has of them."""
    log, args = MetricsLog(path), SimpleNamespace(fp16=fp16, learning_rate=1e-3)
    state, control = TrainerState(), TrainerControl()
    log.on_train_begin(args, state, control)
    for norm in norms:
        values = {"loss": 1.0, "grad_norm": norm, "learning_rate": 1e-3, "data_seconds": 0.0, "padding": 0.0}
        log.on_log(args, state, control, logs=values, model=nn.Linear(1, 1))
    log.on_train_end(args, state, control)
    return [json.loads(line)["grad_norm"] for line in path.read_text().splitlines()]


def test_a_gradient_that_overflows_in_fp16_is_a_step_that_is_skipped(tmp_path):
    assert logged(tmp_path / "a", [1.0, math.inf, math.nan, 2.0], fp16=True) == [1.0, None, None, 2.0]
    with pytest.raises(NonFiniteError, match=r"norm inf.*use --precision bf16 or fp32"):
        logged(tmp_path / "b", [math.inf] * (OVERFLOWS + 1), fp16=True)
    with pytest.raises(NonFiniteError, match="norm inf"):
        logged(tmp_path / "c", [math.inf], fp16=False)


@pytest.mark.parametrize("every", [4, 50])
def test_the_last_step_is_logged_whatever_the_spacing(arguments, console, every):
    report = train(arguments(logging_steps=every, save_steps=every), console)
    assert report["training"]["steps"] == 6
