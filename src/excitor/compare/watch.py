"""What is measured while a model trains: time, memory, and points of its learning-forgetting curve."""

import json
import threading
import time
from pathlib import Path
from typing import Any, TextIO, cast

import psutil
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from excitor.compare.cost import saved_for_backward
from excitor.evaluate.report import measure
from excitor.train.folder import rewind_metrics


EVERY = 0.01  # seconds between two looks at the memory of a process


def memory() -> int:
    """Bytes held now: reserved by PyTorch on a GPU, resident in the process on a CPU."""
    return torch.cuda.memory_reserved() if torch.cuda.is_available() else psutil.Process().memory_info().rss


class Watch(TrainerCallback):
    """Writes a JSON line a step, and measures the model after some of them.

    A line holds ``step``, ``seconds`` (forward, backward, optimizer), ``tokens`` (so far), ``memory`` (the most that
    was held in the step) and ``allocated`` (by tensors, at its end; on a GPU), in bytes beyond those held before the
    model was loaded. After a step of ``points`` it also holds ``answer_loss``, ``gain``, ``forgetting``, ``kl`` and
    ``flipped``, see :func:`learned_and_forgotten`, and ``eval_seconds``. ``saved`` is what
    :func:`excitor.compare.cost.saved_for_backward` finds before the first step.

    Args:
        path: Of the file. A resumed run continues it.
        points: Steps after which to measure.
        held_out: Encoded rows that are not trained on.
        retain: Encoded text.
        batch_size: Rows in a batch when measuring.
        before: Bytes held before the model was loaded.
    """

    def __init__(
        self, path: Path, points: set[int], held_out: Dataset, retain: Dataset, *, batch_size: int, before: int
    ) -> None:
        self.path, self.points, self.held_out, self.retain = path, points, held_out, retain
        self.batch_size, self.before = batch_size, before
        self.saved = 0
        self._file: TextIO | None = None
        self._started = 0.0
        self._peak = _Peak()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Forget what an interrupted run did after its checkpoint, and see what a backward pass will need."""
        with torch.random.fork_rng():  # training goes on as if nobody had looked
            self.saved = saved_for_backward(kwargs["model"], self.held_out, args.train_batch_size)
        rewind_metrics(self.path, state.global_step)
        self._file = self.path.open("a", encoding="utf-8")

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Start the clock."""
        self._peak.start()
        self._started = _now()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Write the line."""
        line: dict[str, Any] = {
            "step": state.global_step,
            "seconds": _now() - self._started,
            "tokens": int(state.num_input_tokens_seen),
            "memory": self._peak.stop() - self.before,
            "allocated": torch.cuda.memory_allocated() - self.before if torch.cuda.is_available() else None,
        }
        if state.global_step in self.points:
            started = _now()
            report = measure(
                cast(PeftModel, kwargs["model"]),
                self.held_out,
                self.retain,
                retain_source="",
                batch_size=self.batch_size,
            )
            line |= learned_and_forgotten(report) | {"eval_seconds": _now() - started}
        file = cast(TextIO, self._file)
        file.write(json.dumps(line) + "\n")
        file.flush()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Close the file."""
        cast(TextIO, self._file).close()


def learned_and_forgotten(report: dict[str, Any]) -> dict[str, float]:
    """The axes of a comparison, from a report of :func:`excitor.evaluate.report.measure`.

    Returns:
        In nats per token ``answer_loss`` (of held-out answers), ``gain`` (how far it has fallen), ``forgetting`` (how
        far the loss of retention text has risen) and ``kl``; ``flipped``, a share.
    """
    learned, forgotten = report["learned"], report["forgotten"]
    return {
        "answer_loss": learned["adapter"],
        "gain": -learned["change"],
        "forgetting": forgotten["change"],
        "kl": forgotten["kl"],
        "flipped": forgotten["flipped"],
    }


class _Peak:
    """The most memory held between two moments. A CPU has no counter of it: a thread looks every now and then."""

    def __init__(self) -> None:
        self._seen = 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            return
        self._seen = memory()
        self._done.clear()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        if self._thread is None:
            return torch.cuda.max_memory_reserved()
        self._done.set()
        self._thread.join()
        return max(self._seen, memory())

    def _look(self) -> None:
        process = psutil.Process()
        while not self._done.wait(EVERY):
            self._seen = max(self._seen, process.memory_info().rss)


def _now() -> float:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()
