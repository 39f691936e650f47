"""What happens beside training: metrics to disk, a progress bar, a clean stop."""

import json
import math
import signal
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from excitor.errors import NonFiniteError
from excitor.layer import ExcitorLayer
from excitor.strength import gates


# Logged steps of fp16 in a row whose gradient overflows: the scale begins at 2^16 and is halved each time.
OVERFLOWS = 20
_PEFT_PREFIX = "base_model.model."  # layers are written by their name in the base


class MetricsLog(TrainerCallback):
    """Writes one JSON line a logged step, and stops a run whose loss is no number any more.

    A line holds ``step``, ``loss`` (mean over the steps since the last line, nats per supervised token),
    ``learning_rate``, ``grad_norm`` (before clipping; None in a step of fp16 that overflowed and was
    skipped), ``tokens`` (read so far, without padding),
    ``tokens_per_second``, ``data_share`` (of the time since the last line, the part spent waiting for batches),
    ``padding`` (of the positions of those batches, the share without a token; these two are of this process) and
    ``gates`` (mean |gate| of each layer by its name; empty for other methods than Excitor).
    With preservation losses also ``parts`` (the mean of each that was computed, without its weight) and
    ``preservation_seconds`` (the time they took).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last: dict[str, Any] = {}
        self._file: TextIO | None = None
        self._tokens = 0
        self._time = 0.0
        self._overflows = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Open the file and start the clock."""
        self._file = self.path.open("a", encoding="utf-8")
        self._tokens, self._time = state.num_input_tokens_seen, time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Log the last step, whatever ``logging_steps`` is: the summary of the run ends with it."""
        control.should_log |= state.global_step >= state.max_steps

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Write a line."""
        logs: dict[str, float] = kwargs["logs"]
        if self._file is None or "loss" not in logs:  # the summary at the end
            return
        # With fp16 a scaled gradient overflows now and then: the step is skipped, and the scale lowered.
        overflow = args.fp16 and not math.isfinite(logs["grad_norm"])
        self._overflows = self._overflows + 1 if overflow else 0
        diverged = self._overflows > OVERFLOWS or not (overflow or math.isfinite(logs["grad_norm"]))
        if diverged or not math.isfinite(logs["loss"]):
            raise NonFiniteError(
                f"Training diverged at step {state.global_step}: the loss is {logs['loss']}, the gradient's norm "
                f"{logs['grad_norm']}. Lower --learning-rate (now {args.learning_rate:g}), raise --warmup-ratio"
                f"{', or use --precision bf16 or fp32' if args.fp16 else ''}."
            )
        now = time.perf_counter()
        self.last = {
            "step": state.global_step,
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": None if overflow else logs["grad_norm"],
            "tokens": state.num_input_tokens_seen,
            "tokens_per_second": (state.num_input_tokens_seen - self._tokens) / (now - self._time),
            "data_share": logs["data_seconds"] / (now - self._time),
            "padding": logs["padding"],
            "gates": _gate_sizes(kwargs["model"]),
        }
        self.last |= {name: logs[name] for name in ("parts", "preservation_seconds") if name in logs}
        self._tokens, self._time = state.num_input_tokens_seen, now
        self._file.write(json.dumps(self.last) + "\n")
        self._file.flush()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _gate_sizes(model: nn.Module) -> dict[str, float]:
    if not any(isinstance(module, ExcitorLayer) for module in model.modules()):
        return {}
    return {name.removeprefix(_PEFT_PREFIX): gate.abs().mean().item() for name, gate in gates(model).items()}


class ProgressBar(TrainerCallback):
    """Steps done, with the loss, learning rate, tokens/s and share of the time lost to data last logged."""

    def __init__(self, console: Console, metrics: MetricsLog) -> None:
        self._metrics = metrics
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("")

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Start where the run starts, or resumes."""
        self._bar.update(self._task, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Move on."""
        self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Show the last numbers."""
        if last := self._metrics.last:
            numbers = (
                f"loss {last['loss']:.4f}  lr {last['learning_rate']:.2e}  {last['tokens_per_second']:,.0f} tok/s  "
                f"data {last['data_share']:.0%}"
            )
            self._bar.update(self._task, description=numbers)


class StopOnInterrupt(TrainerCallback):
    """Lets Ctrl-C end the step that is running, save a checkpoint and stop; a second Ctrl-C stops at once.

    A ``KeyboardInterrupt`` in the middle of an optimizer step would leave weights that belong to no step. Used as a
    context manager around training; ``requested`` says afterwards whether the user asked to stop.
    """

    def __init__(self, console: Console) -> None:
        self.requested = False
        self._console = console
        self._previous: Any = None

    def __enter__(self) -> "StopOnInterrupt":
        if threading.current_thread() is threading.main_thread():  # signals reach no other thread
            self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _request(self, *_: Any) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, self._previous)
        self._console.print("Stopping after this step, to save a checkpoint (Ctrl-C again stops at once).")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Save and stop, when asked to."""
        if self.requested:
            control.should_save = control.should_training_stop = True
