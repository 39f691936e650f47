"""The folder of a run: what is in it, whether it may be used, and where an interrupted run continues."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from excitor.arguments import existing
from excitor.errors import ExcitorError
from excitor.run_record import RUN_FILE, read_run
from excitor.train.arguments import TrainArguments


ENVIRONMENT_FILE = "environment.json"
METRICS_FILE = "metrics.jsonl"
REPORT_FILE = "report.json"
CURVES_FILE = "curves.png"
CARD_FILE = "README.md"
BASE_TEXT_FILE = "base_text.json"
REPLAY_FILE = "replay_text.json"

# What an adapter folder holds next to these; all of it is replaced by --overwrite.
_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
_RUN_FILES = (
    *(ENVIRONMENT_FILE, METRICS_FILE, REPORT_FILE, CURVES_FILE, CARD_FILE, BASE_TEXT_FILE, REPLAY_FILE),
    *_ADAPTER_FILES,
)

# Arguments that may differ when a run is resumed: they say where and how often to write, not what is computed.
_FREE_TO_CHANGE = (
    *("out", "resume", "overwrite", "logging_steps", "save_steps", "keep_checkpoints"),
    *("cache_tokens", "check_images"),
)


def check_folder(arguments: TrainArguments) -> None:
    """Check that the run may use its folder, without changing anything in it.

    Raises:
        ExcitorError: There is something in it that is not to be replaced, or nothing to resume.
    """
    folder = Path(str(arguments.out))
    has_run = (folder / RUN_FILE).exists()
    if arguments.resume and not has_run:
        raise ExcitorError(f"There is no run to resume in {folder} (no {RUN_FILE}). Leave out --resume to start one.")
    if folder.exists() and any(folder.iterdir()) and not arguments.resume:
        if not has_run:
            raise ExcitorError(f"{folder} is not empty and holds no run of excitor train. Choose another --out.")
        if not arguments.overwrite:
            raise ExcitorError(
                f"{folder} holds a run already. Continue it with --resume, replace it with --overwrite, "
                "or choose another --out."
            )


def check_space(folder: Path, bytes_needed: int) -> None:
    """Check that the disk has room for a run.

    Raises:
        ExcitorError: It has not; the message names the folder and the bytes.
    """
    free = shutil.disk_usage(existing(folder)).free
    if free < bytes_needed:
        raise _disk_full(folder, bytes_needed, free)


def open_folder(arguments: TrainArguments, environment: dict[str, Any]) -> Path | None:
    """Make the folder ready for training.

    Args:
        arguments: The resolved arguments of the run.
        environment: What else defines the run: versions, machine, data. ``environment["rows_sha256"]`` must not
            change between a run and its resumption.

    Returns:
        The checkpoint to resume from, None to start at the first step.

    Raises:
        ExcitorError: The run to be resumed had other arguments or other data.
    """
    folder = Path(str(arguments.out))
    if arguments.resume:
        _check_same_run(folder, arguments, environment)
        checkpoint = _newest_checkpoint(folder)
        if checkpoint is None and (folder / REPORT_FILE).exists():
            raise ExcitorError(
                f"The run in {folder} is finished, and its checkpoints are gone: there is nothing to resume. "
                "--overwrite trains it again."
            )
        return checkpoint
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.overwrite:
        for name in _RUN_FILES:
            (folder / name).unlink(missing_ok=True)
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    write_text(folder / ENVIRONMENT_FILE, json.dumps(environment, indent=2) + "\n")
    write_text(folder / RUN_FILE, yaml.safe_dump(_settings(arguments), sort_keys=False, allow_unicode=True))
    return None


def rewind_metrics(path: Path, step: int) -> None:
    """Drop what an interrupted run logged after ``step``, and a line it did not finish."""
    if path.exists():
        write_text(path, "".join(json.dumps(record) + "\n" for record in read_metrics(path) if record["step"] <= step))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file, one for each logged step; a last line that was cut off is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


@contextmanager
def naming_full_disk(folder: Path, bytes_needed: int) -> Iterator[None]:
    """Turn any writer's "no space left" into one message.

    Raises:
        ExcitorError: The disk filled up inside the block.
    """
    try:
        yield
    except Exception as error:
        # torch and safetensors wrap the system's error in their own classes
        if "No space left" in str(error) or "file write failed" in str(error):
            raise _disk_full(folder, bytes_needed, shutil.disk_usage(folder).free) from error
        raise


def _disk_full(folder: Path, needed: int, free: int) -> ExcitorError:
    return ExcitorError(
        f"No space left for {folder}: a run of this size needs about {needed:,} bytes, {free:,} are free. "
        "Free some space, choose another --out, or lower --keep-checkpoints; --resume continues a run that had begun."
    )


def _settings(arguments: TrainArguments) -> dict[str, Any]:
    settings = arguments.to_dict()
    return {name: value for name, value in settings.items() if name not in ("resume", "overwrite")}


def _check_same_run(folder: Path, arguments: TrainArguments, environment: dict[str, Any]) -> None:
    before = read_run(folder)
    changed = [
        f"{name} was {before.get(name)!r} and is now {value!r}"
        for name, value in _settings(arguments).items()
        if name not in _FREE_TO_CHANGE and before.get(name) != value
    ]
    if changed:
        raise ExcitorError(
            f"The run in {folder} cannot be resumed with other arguments: {'; '.join(changed)}. "
            f"Repeat it as it was with --config {folder / RUN_FILE} --resume, or choose another --out."
        )
    data_before = json.loads((folder / ENVIRONMENT_FILE).read_text(encoding="utf-8"))["rows_sha256"]
    if data_before != environment["rows_sha256"]:
        raise ExcitorError(
            f"The run in {folder} cannot be resumed: {', '.join(arguments.data)} no longer gives the same rows. "
            "Restore the data, or choose another --out."
        )


def _newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; incomplete ones, left by a kill while saving, are removed."""
    complete = []
    for checkpoint in folder.glob("checkpoint-*"):
        if _is_complete(checkpoint):
            complete.append(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    return max(complete, key=checkpoint_step, default=None)


def checkpoint_step(checkpoint: Path) -> int:
    """Number of optimizer steps behind a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


def _is_complete(checkpoint: Path) -> bool:
    # The Trainer writes this file after all others.
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    return state["global_step"] == checkpoint_step(checkpoint)


def write_text(path: Path, text: str) -> None:
    """Write a small file in one step: a reader, or a kill, never meets half of it."""
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)
