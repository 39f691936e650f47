import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from excitor.errors import ExcitorError
from excitor.train.arguments import TrainArguments
from excitor.train.folder import (
    check_folder,
    check_space,
    naming_full_disk,
    open_folder,
    read_metrics,
    rewind_metrics,
)


ENVIRONMENT = {"rows_sha256": "1"}


@pytest.fixture
def run(tmp_path) -> TrainArguments:
    return TrainArguments(model="m", data=["d"], out=str(tmp_path / "runs" / "first"), learning_rate=1e-3)


@pytest.fixture
def opened(run) -> Path:
    open_folder(run, ENVIRONMENT)
    return Path(run.out)


def checkpoint(folder: Path, step: int, state: str | None = None) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "trainer_state.json").write_text(state or json.dumps({"global_step": step}))
    return path


def test_run_file_gives_the_same_arguments_back(run, opened):
    assert TrainArguments(**yaml.safe_load((opened / "run.yaml").read_text())) == run


def test_a_folder_with_a_run_is_not_written_over_unasked(run, opened):
    with pytest.raises(ExcitorError, match=r"holds a run already\. Continue it with --resume, replace it with"):
        check_folder(run)
    check_folder(replace(run, overwrite=True))
    check_folder(replace(run, resume=True))


def test_a_folder_with_something_else_is_never_written_over(run):
    Path(run.out).mkdir(parents=True)
    (Path(run.out) / "thesis.tex").touch()
    for arguments in (run, replace(run, overwrite=True)):
        with pytest.raises(ExcitorError, match="is not empty and holds no run"):
            check_folder(arguments)


def test_overwriting_removes_the_run_and_nothing_else(run, opened):
    checkpoint(opened, 10)
    for name in ("metrics.jsonl", "notes.txt"):
        (opened / name).touch()
    open_folder(replace(run, overwrite=True, seed=1), ENVIRONMENT)
    assert sorted(path.name for path in opened.iterdir()) == ["environment.json", "notes.txt", "run.yaml"]


def test_there_must_be_a_run_to_resume(run):
    with pytest.raises(ExcitorError, match=r"no run to resume in .*first"):
        check_folder(replace(run, resume=True))


def test_resuming_takes_the_newest_complete_checkpoint_and_removes_broken_ones(run, opened):
    resumed = replace(run, resume=True)
    assert open_folder(resumed, ENVIRONMENT) is None
    newest = [checkpoint(opened, step) for step in (90, 100)][-1]
    half = checkpoint(opened, 110, '{"global_st')
    empty = opened / "checkpoint-120"
    empty.mkdir()
    assert open_folder(resumed, ENVIRONMENT) == newest
    assert not half.exists()
    assert not empty.exists()


def test_resuming_with_other_arguments_names_them(run, opened):
    with pytest.raises(
        ExcitorError, match=r"learning_rate was 0.001 and is now 0.1; seed was 0 and is now 3\. Repeat"
    ):
        open_folder(replace(run, resume=True, learning_rate=0.1, seed=3), ENVIRONMENT)
    open_folder(replace(run, resume=True, save_steps=7, keep_checkpoints=9), ENVIRONMENT)


def test_resuming_with_other_rows_is_an_error(run, opened):
    with pytest.raises(ExcitorError, match="d no longer gives the same rows"):
        open_folder(replace(run, resume=True), {"rows_sha256": "2"})


def test_metrics_are_cut_back_to_the_step_resumed_from(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 6)) + '{"step": 6, "lo')
    assert len(read_metrics(path)) == 5
    rewind_metrics(path, 3)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    rewind_metrics(tmp_path / "missing.jsonl", 3)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
    ],
)
def test_a_full_disk_is_one_message(tmp_path, error):
    message = f"No space left for {tmp_path}: .* needs about 1,234 bytes"
    with pytest.raises(ExcitorError, match=message), naming_full_disk(tmp_path, 1234):
        raise error


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(RuntimeError, match="something else"), naming_full_disk(tmp_path, 1):
        raise RuntimeError("something else")


def test_space_is_checked_before_the_folder_exists(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=999)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    folder = tmp_path / "not" / "there"
    check_space(folder, 999)
    with pytest.raises(ExcitorError, match="needs about 1,000 bytes, 999 are free"):
        check_space(folder, 1000)
