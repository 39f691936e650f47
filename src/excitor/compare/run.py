"""One run: an experiment with a seed and a learning rate, trained and measured; a JSON file when it is done."""

import gc
import json
import shutil
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from rich.console import Console

from excitor.checkpoint import WEIGHTS_FILE, load_adapter
from excitor.compare.cost import decode_speed
from excitor.compare.experiments import Experiment
from excitor.compare.material import Material
from excitor.compare.record import Outcome, record
from excitor.compare.strength import strength_curve
from excitor.compare.watch import Watch, learned_and_forgotten, memory
from excitor.errors import NonFiniteError
from excitor.evaluate.likelihood import compare
from excitor.evaluate.task import Subject
from excitor.quantised import load_base
from excitor.run_record import RUN_FILE
from excitor.train.arguments import TrainArguments
from excitor.train.folder import METRICS_FILE, read_metrics, write_text
from excitor.train.prepare import Job, prepare
from excitor.train.run import train_job
from excitor.trials import read_trial


WATCH_FILE = "watch.jsonl"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Run:
    """What decides the numbers of one run.

    Attributes:
        experiment: the method, resolved for the base.
        material: base, data and questions.
        train: fields of ``TrainArguments`` that are the same for all methods: steps, batch size, ...
        seed: of the material and of the training.
        learning_rate: peak of the schedule; None where nothing is trained.
        points: how many points of the learning-forgetting curve to measure, the end included.
        tuning: whether the run is there to choose the learning rate: it is measured on rows of its own, and nothing is
            asked but what the choice and the curve need.
        strengths: other strengths to measure the finished adapter at, where its method has one.
    """

    experiment: Experiment
    material: Material
    train: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    learning_rate: float | None = None
    points: int = 5
    tuning: bool = False
    strengths: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name for files: different runs of a suite have different ones."""
        return file_name(self.experiment.name, self.learning_rate, self.seed, self.tuning).removesuffix(".json")

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.train["steps"] if self.experiment.adapter else 0

    def curve(self) -> list[int]:
        """The steps after which the curve has a point: doubled from one to the next, since little changes late."""
        return sorted({max(1, self.steps >> number) for number in range(self.points)}) if self.steps else []

    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, as JSON holds it."""
        values = {
            "experiment": self.experiment.name,
            "adapter": self.experiment.adapter,
            "train": self.train | self.experiment.train,
            "material": self.material.describe(),
            "seed": self.seed,
            "learning_rate": self.learning_rate,
            "curve": self.curve(),
            "tuning": self.tuning,
        }
        if self.strengths:
            values["strengths"] = self.strengths
        return json.loads(json.dumps(values))


def file_name(experiment: str, learning_rate: float | None, seed: int, tuning: bool) -> str:
    """Of the file of a run."""
    rate = "" if learning_rate is None else f"--lr-{learning_rate:g}"
    return f"{experiment.replace('/', '--')}{rate}--seed-{seed}{'--tuning' if tuning else ''}.json"


def execute(run: Run, folder: Path) -> dict[str, Any]:
    """Train and measure, or read what was measured before.

    Args:
        run: What to run.
        folder: Receives ``<name>.json`` when everything is done; until then ``<name>/`` holds the training, from which
            an interrupted run goes on.

    Returns:
        What the file holds, see :func:`excitor.compare.record.record`. A run that diverged, or did
        not fit into the memory of the GPU, has the status ``failed``.

    Raises:
        ExcitorError: The file is there and was made with other settings, or the run cannot be made.
    """
    path, scratch = folder / f"{run.name}.json", folder / run.name
    if path.exists():
        return read_trial(path, run.settings())
    gc.collect()  # the model of the run before, which trainer and callbacks hold in circles
    created, started = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    job = _prepare(run, scratch)
    try:
        outcome = _train(run, job, scratch) if run.experiment.adapter else _measure_base(run, job)
    except NonFiniteError as error:
        outcome = Outcome(error=str(error), diverged=True)
    except torch.OutOfMemoryError as error:  # of a GPU: the other methods may fit
        outcome = Outcome(error=f"Out of memory ({str(error).splitlines()[0]}). To try again, delete {path}.")
    result = record(run, job, outcome, created=created, seconds=time.perf_counter() - started)
    write_text(path, json.dumps(result, indent=1, allow_nan=False) + "\n")
    shutil.rmtree(scratch)
    return result


def _prepare(run: Run, scratch: Path) -> Job:
    scratch.mkdir(parents=True, exist_ok=True)
    fields = run.material.write(scratch, run.seed) | run.train | run.experiment.train
    if run.experiment.adapter:
        adapter = scratch / "method.json"
        adapter.write_text(json.dumps(run.experiment.adapter), encoding="utf-8")
        fields["adapter_config"] = str(adapter)
    weights = TrainArguments(**{name: value for name, value in fields.items() if name != "replay"}).weights()
    if not weights.on_replay:
        fields.pop("replay", None)
    out = scratch / "adapter"
    spacing = max(1, run.steps // 10)
    arguments = TrainArguments(
        **fields,
        out=str(out),
        learning_rate=run.learning_rate,
        seed=run.seed,
        save_steps=spacing,
        keep_checkpoints=1,
        resume=(out / RUN_FILE).exists(),
    )
    job = prepare(arguments)
    return replace(job, held_out=run.material.held_out(job, scratch, run.tuning))


def _train(run: Run, job: Job, scratch: Path) -> Outcome:
    before = memory()
    retain = cast(Dataset, job.retain)  # every material names some
    watch = Watch(
        scratch / WATCH_FILE,
        set(run.curve()) - {run.steps},  # the end is in the report
        job.held_out,
        retain,
        batch_size=job.arguments.batch_size,
        before=before,
    )
    report = train_job(job, Console(quiet=True), [watch])
    folder = Path(str(job.arguments.out))
    measures, speed, strengths = learned_and_forgotten(report), None, None
    if not run.tuning:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model, tokenizer = load_adapter(str(folder), device=device, dtype=_DTYPES[job.arguments.precision])
        speed = decode_speed(model, tokenizer, job.held_out)
        measures |= run.material.examine(model, tokenizer, job, run.seed)
        if run.strengths:
            batch_size = job.arguments.batch_size
            strengths = strength_curve(model, run.strengths, job.held_out, retain, batch_size=batch_size)
    return Outcome(
        measures=measures,
        strengths=strengths,
        report=report,
        steps=read_metrics(scratch / WATCH_FILE),
        losses=[line["loss"] for line in read_metrics(folder / METRICS_FILE)],
        file_size=(folder / WEIGHTS_FILE).stat().st_size,
        saved_for_backward=watch.saved,
        decode_speed=speed,
    )


def _measure_base(run: Run, job: Job) -> Outcome:
    """What a run would give that changes nothing."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_base(run.material.model, _DTYPES[job.arguments.precision], device=device).eval()
    losses = compare([Subject("base", model)], job.held_out, job.arguments.batch_size)["base"].loss
    measures = {"answer_loss": torch.cat(losses).double().mean().item()}
    measures |= dict.fromkeys(("gain", "forgetting", "kl", "flipped"), 0.0)
    return Outcome(
        measures=measures | run.material.examine(model, job.tokenizer, job, run.seed),
        total=sum(parameter.numel() for parameter in model.parameters()),
        decode_speed=decode_speed(model, job.tokenizer, job.held_out),
    )
