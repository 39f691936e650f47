"""A training run from its arguments to its report."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from datasets import Dataset
from peft import PeftModel, PeftType
from rich.console import Console
from transformers import TrainerCallback

from excitor.checkpoint import save_adapter
from excitor.config import ExcitorConfig
from excitor.data import preview_example
from excitor.diagnostics.signs import check_run
from excitor.diagnostics.tables import findings_text
from excitor.evaluate.report import measure, table
from excitor.evaluate.sampling import sample_from_base
from excitor.evaluate.task import Subject
from excitor.train.arguments import TrainArguments
from excitor.train.artifacts import draw_curves, model_card, speed_line, training_summary
from excitor.train.callbacks import MetricsLog, ProgressBar, StopOnInterrupt
from excitor.train.folder import (
    BASE_TEXT_FILE,
    CARD_FILE,
    CURVES_FILE,
    METRICS_FILE,
    REPLAY_FILE,
    REPORT_FILE,
    checkpoint_step,
    naming_full_disk,
    open_folder,
    read_metrics,
    rewind_metrics,
    write_text,
)
from excitor.train.prepare import Job, prepare
from excitor.train.preserve import describe, make_preservation, preservation_report, verdict
from excitor.train.trainer import deterministic, make_trainer, total_steps


# Text of the base's own, where none is given: the same for every seed, so that runs can be compared.
BASE_TEXT_SEED = 0
BASE_TEXT_LENGTH = 256


def train(arguments: TrainArguments, console: Console | None = None) -> dict[str, Any]:
    """Train an Excitor adapter and measure it.

    The folder ``arguments.out`` receives the adapter, the tokenizer, checkpoints, ``run.yaml``, ``metrics.jsonl``,
    ``curves.png``, ``report.json`` and a model card; docs/training.md describes each.

    Args:
        arguments: The run.
        console: Where to print; the terminal when not given.

    Returns:
        The report: that of :func:`excitor.evaluate.report.measure`, with ``training`` and ``environment``.

    Raises:
        ExcitorError: Something the user can mend; see the message. Most of it is found before weights are loaded.
        KeyboardInterrupt: After Ctrl-C, with a checkpoint saved.
    """
    return train_job(prepare(arguments), console)


def train_job(job: Job, console: Console | None = None, watchers: Sequence[TrainerCallback] = ()) -> dict[str, Any]:
    """As :func:`train`, for a run that was prepared before.

    Args:
        job: The run, which may have been given other held-out rows or other text to measure on.
        console: Where to print; the terminal when not given.
        watchers: Told what happens in training, beside the run's own callbacks; they must change nothing.

    Returns:
        The report.

    Raises:
        ExcitorError: As :func:`train`.
        KeyboardInterrupt: As :func:`train`.
    """
    console = console or Console()
    arguments = job.arguments
    _describe_data(job, console)
    folder = Path(str(arguments.out))
    checkpoint = open_folder(job.arguments, job.environment)

    metrics = MetricsLog(folder / METRICS_FILE)
    stop, progress = StopOnInterrupt(console), ProgressBar(console, metrics)
    trainer = make_trainer(job, [metrics, progress, stop, *watchers])
    model = cast(PeftModel, trainer.model)
    trainable, total = model.get_nb_trainable_parameters()
    console.print(f"Trainable: {trainable:,} of {total:,} parameters ({trainable / total:.2%})")
    console.print(f"Steps: {total_steps(trainer):,}" + (f", resuming from {checkpoint}" if checkpoint else ""))
    retain = job.retain or _base_text(job, model, folder / BASE_TEXT_FILE)
    preservation = make_preservation(job, model, folder / REPLAY_FILE)
    if preservation is not None:
        trainer.preserve(preservation)
        console.print(describe(preservation, job))

    rewind_metrics(metrics.path, checkpoint_step(checkpoint) if checkpoint else 0)
    with naming_full_disk(folder, job.bytes_needed), deterministic(), stop, progress:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.requested:
        console.print(f"Stopped at step {trainer.state.global_step}. Run the same command with --resume to continue.")
        raise KeyboardInterrupt

    source = ", ".join(Path(path).name for path in arguments.retain) or "sampled from the base"
    seen = {} if job.sight is None else {"inputs": partial(job.sight.inputs, job.held_out)}
    report = measure(model, job.held_out, retain, retain_source=source, batch_size=arguments.batch_size, **seen)
    with naming_full_disk(folder, job.bytes_needed):
        report = _write_results(job, model, report, folder)
    console.print(f"Trained: {speed_line(report['training'])}")
    console.print(table(report))
    for line in verdict(report):
        console.print(line)
    if isinstance(job.method, ExcitorConfig):
        console.print(findings_text(check_run(folder)))
    console.print(f"Everything is in {folder}; read {folder / CARD_FILE} first.")
    return report


def _describe_data(job: Job, console: Console) -> None:
    encoded = job.encoded
    console.print(job.notes, highlight=False)
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in encoded.dropped.items()) or "none"
    console.print(f"Rows: {encoded.rows_read:,} read; dropped: {dropped}")
    console.print(f"      {len(job.train):,} to train on, {len(job.held_out):,} held out; template {encoded.template}")
    console.print(f"Supervised tokens: {encoded.supervised_tokens:,}")
    stop_id = job.tokenizer.convert_tokens_to_ids(encoded.stop_token)
    console.print(f"Answers end with {encoded.stop_token!r} (id {stop_id})")
    console.print("First example:")
    console.print(preview_example(job.train[0], job.tokenizer))


def _base_text(job: Job, model: PeftModel, cache: Path) -> Dataset:
    """Text sampled from the base, written down so that a resumed run measures on the same."""
    if not cache.exists():
        length = min(BASE_TEXT_LENGTH, job.arguments.max_length or BASE_TEXT_LENGTH)
        sampled = sample_from_base(
            Subject("base", model),
            job.tokenizer,
            documents=job.arguments.retain_documents,
            length=length,
            seed=BASE_TEXT_SEED,
        )
        write_text(cache, json.dumps(sampled["input_ids"][:]) + "\n")
    ids = json.loads(cache.read_text(encoding="utf-8"))
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def _write_results(job: Job, model: PeftModel, report: dict[str, Any], folder: Path) -> dict[str, Any]:
    save_adapter(model, folder)
    job.tokenizer.save_pretrained(folder)
    if job.sight is not None:
        cast(Any, model).get_base_model().config.save_pretrained(folder)
    records = read_metrics(folder / METRICS_FILE)
    report = report | {"training": training_summary(records), "environment": job.environment}
    report = report | preservation_report(job, records, report)
    draw_curves(records, folder / CURVES_FILE)
    write_text(folder / CARD_FILE, model_card(job.arguments, report, PeftType(job.method.peft_type).value))
    write_text(folder / REPORT_FILE, json.dumps(report, indent=2) + "\n")
    return report
