import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import excitor
from excitor.errors import ExcitorError
from excitor.evaluate.likelihood import compare
from excitor.evaluate.task import Subject
from excitor.train.arguments import TrainArguments
from excitor.train.callbacks import MetricsLog
from excitor.train.prepare import prepare
from excitor.train.run import train

from .conftest import metrics_of


def adapter_of(folder) -> bytes:
    return (Path(folder) / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Filled by ``whole``: an uninterrupted run to compare others with."""
    return tmp_path_factory.mktemp("whole") / "out"


@pytest.fixture
def whole(finished, arguments, console) -> Path:
    if not (finished / "report.json").exists():
        train(arguments(out=str(finished)), console)
    return finished


class Crash(Exception):
    """Stands for a kill."""


def crash_at(step: int, monkeypatch) -> None:
    original = MetricsLog.on_log

    def on_log(self, args, state, control, **kwargs):
        original(self, args, state, control, **kwargs)
        if state.global_step == step:
            raise Crash

    monkeypatch.setattr(MetricsLog, "on_log", on_log)


def test_everything_is_there_at_the_end(arguments, console, tmp_path):
    report = train(arguments(), console)
    out = tmp_path / "out"
    assert json.loads((out / "report.json").read_text()) == report
    assert report["training"]["steps"] == 6
    assert report["learned"]["change"] < -0.1
    assert report["forgotten"]["source"] == "text.txt"

    records = metrics_of(out)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1]["gates"].keys() == {f"model.layers.{i}.self_attn.k_proj" for i in range(3)}
    assert records[0]["tokens"] < records[-1]["tokens"] == report["training"]["tokens"]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]

    card = (out / "README.md").read_text()
    for part in ("import excitor", f"{report['learned']['change']:+.4f}", "arxiv.org/abs/2404.00913", "run.yaml"):
        assert part in card
    printed = console.export_text()
    for part in ("Rows: 12 read; dropped: none", "10 to train on, 2 held out", "⟦learned⟧", "(id 2)", "Steps: 6"):
        assert part in printed


def test_the_saved_adapter_gives_the_losses_reported(whole, arguments):
    report = json.loads((whole / "report.json").read_text())
    model, _ = excitor.load_adapter(str(whole))
    scores = compare([Subject("trained", model, "default")], prepare(arguments()).held_out)
    losses = torch.cat(scores["trained"].loss)
    assert losses.mean().item() == pytest.approx(report["learned"]["adapter"], abs=1e-5)


def test_the_same_seed_gives_the_same_adapter(whole, arguments, console, tmp_path):
    train(arguments(), console)
    assert adapter_of(tmp_path / "out") == adapter_of(whole)
    assert metrics_of(tmp_path / "out") == metrics_of(whole)
    train(arguments(seed=1, overwrite=True), console)
    assert adapter_of(tmp_path / "out") != adapter_of(whole)


def test_the_run_file_repeats_the_run(whole, console, tmp_path):
    settings = yaml.safe_load((whole / "run.yaml").read_text())
    train(TrainArguments(**(settings | {"out": str(tmp_path / "again")})), console)
    assert adapter_of(tmp_path / "again") == adapter_of(whole)


def test_a_crashed_run_resumes_to_the_same_losses(whole, arguments, console, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        crash_at(5, patch)
        with pytest.raises(Crash):
            train(arguments(), console)
    out = tmp_path / "out"
    assert [record["step"] for record in metrics_of(out)] == [1, 2, 3, 4, 5]
    half = out / "checkpoint-5"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"\0" * 10)

    train(arguments(resume=True), console)
    assert "resuming from" in console.export_text()
    assert metrics_of(out) == metrics_of(whole)
    assert adapter_of(out) == adapter_of(whole)
    assert not half.exists()


def test_a_run_that_crashed_before_its_first_checkpoint_starts_over(whole, arguments, console, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        crash_at(1, patch)
        with pytest.raises(Crash):
            train(arguments(), console)
    train(arguments(resume=True), console)
    assert metrics_of(tmp_path / "out") == metrics_of(whole)


def test_a_finished_run_without_checkpoints_is_not_trained_again(arguments, console, tmp_path):
    train(arguments(steps=2), console)
    before = adapter_of(tmp_path / "out")
    for checkpoint in (tmp_path / "out").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    with pytest.raises(ExcitorError, match="is finished, and its checkpoints are gone: there is nothing to resume"):
        train(arguments(steps=2, resume=True), console)
    assert adapter_of(tmp_path / "out") == before


def test_a_run_killed_while_it_was_measured_is_measured_again(arguments, console, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("excitor.train.run.measure", None)
        with pytest.raises(TypeError):
            train(arguments(), console)
    records = metrics_of(tmp_path / "out")
    report = train(arguments(resume=True), console)
    assert report["training"]["steps"] == 6
    assert metrics_of(tmp_path / "out") == records


def test_ctrl_c_saves_a_checkpoint_and_resumes(whole, arguments, console, tmp_path, monkeypatch):
    def on_log(self, args, state, control, **kwargs):
        original(self, args, state, control, **kwargs)
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    original = MetricsLog.on_log
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "on_log", on_log)
        with pytest.raises(KeyboardInterrupt):
            train(arguments(), console)
    assert "Stopped at step 3. Run the same command with --resume" in console.export_text()
    assert signal.getsignal(signal.SIGINT) == before
    assert (tmp_path / "out" / "checkpoint-3").exists()
    train(arguments(resume=True), console)
    assert metrics_of(tmp_path / "out") == metrics_of(whole)
    assert adapter_of(tmp_path / "out") == adapter_of(whole)


def test_without_text_the_base_writes_some_once(arguments, console, tmp_path, monkeypatch):
    job = {"retain": [], "retain_documents": 3, "max_length": 64}
    with monkeypatch.context() as patch:
        crash_at(3, patch)
        with pytest.raises(Crash):
            train(arguments(**job), console)
    written = (tmp_path / "out" / "base_text.json").read_text()
    assert len(json.loads(written)) == 3
    monkeypatch.setattr("excitor.train.run.sample_from_base", None)
    report = train(arguments(resume=True, **job), console)
    assert (tmp_path / "out" / "base_text.json").read_text() == written
    assert report["forgotten"]["source"] == "sampled from the base"
    assert report["forgotten"]["documents"] == 3


def test_a_loss_that_is_no_number_stops_the_run(arguments, console, monkeypatch):
    def poison(self, args, state, control, model=None, **kwargs):
        if state.global_step == 2:
            next(p for p in model.parameters() if p.requires_grad).data.fill_(float("nan"))

    monkeypatch.setattr("excitor.train.callbacks.MetricsLog.on_step_begin", poison)
    with pytest.raises(
        ExcitorError, match=r"diverged at step 3: the loss is nan.* Lower --learning-rate \(now 0.05\)"
    ):
        train(arguments(), console)


def test_a_full_disk_while_saving_names_the_folder(arguments, console, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(ExcitorError, match=f"No space left for {tmp_path / 'out'}: .* needs about [0-9,]+ bytes"):
        train(arguments(), console)


def test_bf16_and_packing_train(arguments, console):
    report = train(arguments(precision="bf16", packing=True, gradient_checkpointing=True, epochs=2.0), console)
    assert report["learned"]["change"] < 0


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_losses(whole, arguments, console, tmp_path):
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from excitor.train.arguments import TrainArguments\n"
        "from excitor.train.run import train\n"
        f"train(TrainArguments(**{arguments().to_dict()!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "out" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    train(arguments(resume=True), console)
    assert metrics_of(tmp_path / "out") == metrics_of(whole)
    assert adapter_of(tmp_path / "out") == adapter_of(whole)


def test_another_peft_method_trains_in_the_same_loop(arguments, console, tmp_path) -> None:
    config, out = tmp_path / "lora.json", tmp_path / "lora"
    config.write_text(json.dumps({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "v_proj"]}))
    report = train(arguments(adapter_config=str(config), out=str(out), r=None, num_prompts=None), console)
    assert report["parameters"]["trainable"] == 3 * 2 * (32 + 48 + 32 + 24)
    assert json.loads((out / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert "A LORA adapter" in (out / "README.md").read_text()
    assert (out / "curves.png").stat().st_size > 5000
    model, _ = excitor.load_adapter(str(out))
    assert model.active_peft_config.peft_type.value == "LORA"


def test_a_run_ends_with_what_the_doctor_finds(arguments, console):
    train(arguments(learning_rate=1e-9), console)
    assert "under-modification" in console.file.getvalue()
