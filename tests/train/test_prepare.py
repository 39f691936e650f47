import json
import shutil
from pathlib import Path

import pytest
from transformers import T5Config

from excitor.errors import ExcitorError
from excitor.train.prepare import prepare


def test_a_job_is_resolved(arguments):
    job = prepare(arguments(steps=None, eval_rows=None))
    assert (job.arguments.max_length, job.arguments.precision, job.arguments.eval_rows) == (256, "fp32", 1)
    assert (job.arguments.r, job.arguments.gate_init_std) == (2, 0.0)
    usual = [prepare(arguments(learning_rate=None, top_layers=1, preset=preset)) for preset in (None, "paper")]
    assert [each.arguments.learning_rate for each in usual] == [3e-3, 9e-3]
    assert (len(job.train), len(job.held_out)) == (11, 1)
    assert job.trainable == 3 * (32 * 2 + 2 * 24 + 4 * 24 + 2 * 2 * 24 + 2)
    assert not Path(job.arguments.out).exists()


def test_the_paper_preset_gives_way_to_options(arguments):
    job = prepare(arguments(preset="paper", top_layers=2, num_prompts=None))
    assert (job.method.r, job.method.num_prompts, job.method.top_layers, job.method.gate_init_std) == (2, 30, 2, 0.01)


def test_the_held_out_rows_do_not_depend_on_the_seed(arguments):
    first, second = prepare(arguments(seed=0)), prepare(arguments(seed=1))
    assert first.held_out[:] == second.held_out[:]
    assert not {tuple(row) for row in first.held_out["input_ids"]} & {tuple(row) for row in first.train["input_ids"]}


def test_the_environment_names_files_and_rows(arguments, data):
    first = prepare(arguments()).environment
    assert list(first["files_sha256"]) == ["data.jsonl", "text.txt"]
    limited = prepare(arguments(data=[f"{data}#11"])).environment
    assert limited["files_sha256"] == first["files_sha256"]
    assert limited["rows_sha256"] != first["rows_sha256"]
    assert {"torch", "peft", "trl"} < first["versions"].keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "/no/such/folder"}, "--model /no/such/folder is neither a folder with a model nor"),
        ({"data": ["/no/such/file.jsonl"]}, "/no/such/file.jsonl"),
        ({"retain": ["/no/such/text.txt"]}, "/no/such/text.txt"),
        ({"max_length": 300}, "--max-length 300 is more than the 256 tokens of the model's context"),
        ({"max_length": 20}, "none of the 12 rows is left .* longer than max_length"),
        ({"eval_rows": 12}, "--eval-rows 12 leaves none of 12 usable rows"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"top_layers": 4}, "top_layers is 4, but the model has 3 layers"),
        ({"num_prompts": -1, "steps": 0}, r"--steps must be at least 1, got 0\.\n--num-prompts must be at least 0"),
    ],
)
def test_mistakes_are_found_before_weights_are_loaded(arguments, change, message, monkeypatch):
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    with pytest.raises(ExcitorError, match=message):
        prepare(arguments(**change))


def test_one_row_is_too_few_to_hold_one_out(arguments, data):
    with pytest.raises(ExcitorError, match="1 of 1 rows can be used, and at least 2 are needed"):
        prepare(arguments(data=[f"{data}#1"]))


def test_empty_data_is_an_error(arguments, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ExcitorError, match=r"empty\.jsonl"):
        prepare(arguments(data=[str(tmp_path / "empty.jsonl")]))


def test_a_model_without_a_tokenizer_is_an_error(arguments, base_dir, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((Path(base_dir) / "config.json").read_text())
    with pytest.raises(ExcitorError, match="has no usable tokenizer"):
        prepare(arguments(model=str(bare)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "no key projection is known for .*'mamba'"),
        (T5Config().to_dict(), "is no causal language model"),
    ],
)
def test_a_model_that_does_not_fit_is_an_error(arguments, base_dir, tmp_path, changes, message):
    other = tmp_path / "other"
    other.mkdir()
    for file in Path(base_dir).glob("*token*"):
        (other / file.name).write_text(file.read_text())
    (other / "config.json").write_text(json.dumps(changes))
    with pytest.raises(ExcitorError, match=message):
        prepare(arguments(model=str(other)))


def test_too_little_space_is_found_first(arguments, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ExcitorError, match=r"No space left for .*out"):
        prepare(arguments())


def test_text_that_is_taken_as_it_is_is_recorded_as_such(arguments, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Q: {i}\nA:", "completion": " x"}) + "\n" for i in range(6)))
    assert prepare(arguments(data=[str(path)])).arguments.template == "verbatim"
    assert prepare(arguments()).arguments.template == "instruction"


def test_held_out_rows_that_are_trained_on_are_counted(arguments, tmp_path):
    path = tmp_path / "same.jsonl"
    path.write_text((json.dumps({"instruction": "Say a", "output": "a"}) + "\n") * 10)
    assert "Caution: 2 of 2 held-out rows are trained on too" in prepare(arguments(data=[str(path)])).notes
    assert "Caution" not in prepare(arguments()).notes


def test_one_file_has_to_be_a_list_too(arguments, data):
    with pytest.raises(ExcitorError, match=r"--data must be a list of files, got the text .*: put it in a list"):
        arguments(data=data).check()


def test_an_adapter_of_several_methods_has_excitor_s_losses(arguments, tmp_path):
    lora = {"peft_type": "LORA", "target_modules": ["q_proj"]}
    path = tmp_path / "method.json"
    for parts, refused in (([{"peft_type": "EXCITOR"}, lora], False), ([lora, {"peft_type": "IA3"}], True)):
        path.write_text(json.dumps({"peft_type": "COMBINED", "parts": parts}))
        made = arguments(adapter_config=str(path), key_drift_weight=1.0, num_prompts=None, r=None)
        if refused:
            with pytest.raises(ExcitorError, match="only Excitor has such a loss"):
                prepare(made)
        else:
            assert prepare(made).arguments.key_drift_weight == 1.0
