import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from excitor.compare import run as running
from excitor.compare.experiments import CATALOGUE, read_experiments
from excitor.compare.material import Files, World
from excitor.compare.run import Run, execute
from excitor.errors import ExcitorError
from excitor.train.prepare import read_model_config
from tiny import make_llama, make_tokenizer


KNOWN = read_experiments(CATALOGUE)
TRAIN = {"steps": 4, "batch_size": 4, "precision": "fp32", "eval_rows": 4}

# What the result files of PEFT's method comparison hold (method_comparison/MetaMathQA, August 2026).
PEFT_SCHEMA = {
    "run_info": "created_at total_time experiment_name peft_branch train_config peft_config error_msg",
    "train_info": "accelerator_memory_reserved_avg accelerator_memory_max accelerator_memory_reserved_99th train_time "
    "file_size num_trainable_params num_total_params status metrics",
    "meta_info": "model_info dataset_info package_info system_info pytorch_info",
}
PEFT_METRICS = {
    "step, valid accuracy, train loss, train samples, train time, eval time, tokens / sec, mem allocated avg, "
    "mem reserved avg, elapsed time",
    "step, test accuracy, train loss, train samples, train total tokens, forgetting",
}


@pytest.fixture(scope="module")
def even_base(tmp_path_factory) -> str:
    """The tiny model with heads that PEFT's adaption prompts can take."""
    folder = str(tmp_path_factory.mktemp("even"))
    make_llama(head_dim=8).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def material(even_base, tmp_path) -> Files:
    rows = [{"instruction": f"Say {'abc'[i % 3]} {i % 5} times", "output": "abc"[i % 3] * (i + 1)} for i in range(16)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text(json.dumps({"instruction": "Say a", "output": "a"}) + "\n")
    (tmp_path / "text.txt").write_text("Once there was a cat.\n\nThe cat sat on the mat.\n")
    names = {name: [str(tmp_path / f"{name}.jsonl")] for name in ("data", "test")}
    return Files(model=even_base, retain=[str(tmp_path / "text.txt")], max_new_tokens=4, **names)


@pytest.fixture
def make(material):
    config = read_model_config(material.model)

    def make(name: str = "lora/q-v", **changes) -> Run:
        values = {"material": material, "train": TRAIN, "seed": 1, "learning_rate": 0.01, "points": 3}
        experiment = KNOWN[name].resolve(config)
        return Run(experiment, **(values | ({} if experiment.adapter else {"learning_rate": None}) | changes))

    return make


def test_a_run_is_a_file_that_contains_the_schema_of_peft(make, tmp_path):
    run = make()
    result = execute(run, tmp_path)
    assert json.loads((tmp_path / f"{run.name}.json").read_text()) == result
    assert not (tmp_path / run.name).exists()
    for part, names in PEFT_SCHEMA.items():
        assert result[part].keys() >= set(names.split())
    *points, last = result["train_info"]["metrics"]
    assert {", ".join(points[0]), ", ".join(last)} == PEFT_METRICS
    assert [point["step"] for point in points] == [1, 2, 4]
    assert last["train total tokens"] == result["costs"]["train_tokens"] > 0
    assert last["train samples"] == 16
    assert result["train_info"]["status"] == "success"
    assert str(tmp_path) not in json.dumps(result)


def test_everything_is_measured(make, tmp_path):
    result = execute(make("excitor/default"), tmp_path)
    assert set(result["measures"]) == {"answer_loss", "gain", "forgetting", "kl", "flipped", "exact match"}
    assert [point["step"] for point in result["curve"]] == [1, 2, 4]
    assert result["curve"][-1]["gain"] == result["measures"]["gain"]
    costs = result["costs"]
    for name in ("parameters", "file_bytes", "tokens_per_second", "saved_for_backward_bytes"):
        assert costs[name] > 0
    assert costs["decode_tokens_per_second"] > 0
    assert costs["non_finite"] == 0


def test_all_methods_take_the_same_path_and_see_the_same_tokens(make, tmp_path):
    results = {name: execute(make(name, tuning=True), tmp_path) for name in KNOWN if KNOWN[name].adapter}
    assert len({result["costs"]["train_tokens"] for result in results.values()}) == 1
    for name, result in results.items():
        assert result["measures"]["kl"] > 0, name
        assert result["costs"]["saved_for_backward_bytes"] > 0, name


def test_another_base_under_the_same_name_is_another_base(make, material, tmp_path):
    other = tmp_path / "elsewhere" / Path(material.model).name
    shutil.copytree(material.model, other)
    (other / "README.md").write_text("Notes.")
    assert replace(material, model=str(other)).describe() == material.describe()
    make_llama(head_dim=8, initializer_range=0.1).save_pretrained(other)
    run = make(tuning=True)
    execute(run, tmp_path)
    with pytest.raises(ExcitorError, match="was made with another material"):
        execute(replace(run, material=replace(material, model=str(other))), tmp_path)


def test_the_base_is_a_method_that_changes_nothing(make, tmp_path):
    result = execute(make("base/untouched"), tmp_path)
    assert result["measures"]["forgetting"] == result["measures"]["gain"] == 0
    assert result["run_info"]["peft_config"] is None
    reference = execute(make(tuning=False), tmp_path)
    assert result["measures"]["answer_loss"] == pytest.approx(
        reference["measures"]["answer_loss"] + reference["measures"]["gain"]
    )


def test_rates_are_chosen_on_other_rows_than_are_reported(make, tmp_path):
    learned = [execute(make(tuning=tuning), tmp_path)["measures"] for tuning in (True, False)]
    assert learned[0]["answer_loss"] != learned[1]["answer_loss"]
    assert learned[0]["forgetting"] == learned[1]["forgetting"]


WITH_STRENGTH = {
    "excitor/default",
    "lora/q-v",
    "rslora/q-v",
    "shira/q-v",
    "bottleneck/houlsby",
    "excitor-lora/keys-and-q-v",
}


@pytest.mark.parametrize(
    "name", sorted(WITH_STRENGTH | {"dora/q-v", "ia3/default", "prefix-tuning/default", "oft/q-v", "full/layers"})
)
def test_finished_adapters_are_measured_at_other_strengths(name, make, tmp_path):
    result = execute(make(name, strengths=[1e-6, 0.999999, 2.0]), tmp_path)
    points = result["strength_curve"]
    if name not in WITH_STRENGTH:
        assert points is None
        return
    assert [point["strength"] for point in points] == [1e-6, 0.999999, 2.0]
    assert points[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert points[1]["gain"] == pytest.approx(result["measures"]["gain"], abs=1e-4)
    assert points[2]["kl"] > result["measures"]["kl"]


def test_a_run_that_was_cut_off_goes_on_to_the_same_numbers(make, tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    whole = execute(make(), tmp_path / "whole")
    trained = running.train_job

    def interrupted(job, console, watchers):
        watch = watchers[0]
        end = watch.on_step_end

        def stop(args, state, control, **kwargs):
            end(args, state, control, **kwargs)
            if state.global_step == 3:
                raise KeyboardInterrupt

        watch.on_step_end = stop
        return trained(job, console, watchers)

    monkeypatch.setattr(running, "train_job", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(make(), tmp_path)
    monkeypatch.setattr(running, "train_job", trained)
    assert (tmp_path / make().name / "adapter" / "checkpoint-2").exists()
    resumed = execute(make(), tmp_path)
    assert resumed["measures"] == whole["measures"]
    assert resumed["curve"] == whole["curve"]
    assert resumed["costs"]["train_tokens"] == whole["costs"]["train_tokens"]


def test_watching_changes_nothing(make, tmp_path):
    for folder in ("few", "many"):
        (tmp_path / folder).mkdir()
    few, many = execute(make(points=1), tmp_path / "few"), execute(make(points=3), tmp_path / "many")
    assert few["measures"] == many["measures"]
    assert len(few["curve"]) == 1


def test_a_run_that_diverges_is_a_result_too(make, tmp_path, monkeypatch):
    trainer = running.train_job

    def poisoned(job, console, watchers):
        def poison(args, state, control, **kwargs):
            for parameter in kwargs["model"].parameters():
                if parameter.requires_grad:
                    parameter.data.fill_(float("nan"))

        watchers[0].on_step_begin = poison
        return trainer(job, console, watchers)

    monkeypatch.setattr(running, "train_job", poisoned)
    result = execute(make(), tmp_path)
    assert result["status"] == result["train_info"]["status"] == "failed"
    assert "diverged" in result["run_info"]["error_msg"]
    assert result["measures"] == {}
    assert result["costs"]["non_finite"] == 1
    assert execute(make(), tmp_path) == result


def test_what_does_not_fit_into_the_memory_is_a_result_too(make, tmp_path, monkeypatch):
    def full(job, console, watchers):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore about it.")

    monkeypatch.setattr(running, "train_job", full)
    result = execute(make(), tmp_path)
    assert result["status"] == "failed"
    assert result["costs"]["non_finite"] == 0
    path = tmp_path / f"{make().name}.json"
    message = f"Out of memory (CUDA out of memory. Tried to allocate 20.00 GiB.). To try again, delete {path}."
    assert result["run_info"]["error_msg"] == message
    assert execute(make(), tmp_path) == result


def test_other_settings_are_not_taken_for_these(make, tmp_path):
    execute(make(tuning=True), tmp_path)
    with pytest.raises(ExcitorError, match="was made with another train"):
        execute(make(tuning=True, train=TRAIN | {"batch_size": 2}), tmp_path)


def test_replay_is_open_to_every_method_and_changes_what_is_learned(make, tmp_path, material):
    experiment = replace(make().experiment, name="lora/kept", train={"kl_weight": 5.0, "replay_documents": 4})
    plain = execute(make(tuning=True, learning_rate=0.05), tmp_path)
    kept = execute(replace(make(tuning=True, learning_rate=0.05), experiment=experiment), tmp_path)
    assert kept["measures"]["kl"] < plain["measures"]["kl"]
    assert kept["settings"]["train"]["kl_weight"] == 5.0


def test_the_world_asks_about_what_was_taught_wrongly(tmp_path, few_lessons, monkeypatch):
    monkeypatch.setattr("excitor.compare.material.make_lessons", few_lessons)
    material = World(wrong_share=0.4)
    run = Run(KNOWN["lora/k"], material, {"steps": 1, "precision": "fp32"}, 3, 0.01, 1)
    measures = execute(run, tmp_path)["measures"]
    assert {"asked right", "asked wrong", "unseen", "skills", "gain"} <= measures.keys()
    assert measures["probed right"] > 0.9


def test_device_of_the_numbers_is_said(make, tmp_path):
    result = execute(make("base/untouched"), tmp_path)
    assert result["meta_info"]["system_info"]["accelerator"] == (
        torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    )
