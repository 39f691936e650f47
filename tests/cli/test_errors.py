"""Every mistake a user can make at the command line is one message that names it, and exit code 2."""

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, MambaConfig, T5Config

from excitor.train import run
from tiny import make_llama, make_tokenizer


ROWS = [{"instruction": f"Say {word}.", "output": word} for word in ("one", "two", "three", "four")]


@pytest.fixture
def fails(command):
    """Runs a command that must fail, and returns its message."""

    def check(*arguments: object) -> str:
        result = command(*arguments)
        assert result.code == 2, result
        assert "Traceback" not in result.err
        assert result.err.count("Error: ") == 1
        return result.err.partition("Error: ")[2]

    return check


@pytest.fixture
def rows(tmp_path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


@pytest.fixture
def train_fails(fails, base_dir, rows, tmp_path):
    """A run with one mistake: the given flags replace those of a run that would work."""

    def check(**changes: object) -> str:
        flags = {"model": base_dir, "data": rows, "out": tmp_path / "out"} | changes
        message = fails("train", *(f"--{name.replace('_', '-')}={value}" for name, value in flags.items()))
        assert not (tmp_path / "out" / "run.yaml").exists(), "nothing is written before the mistake is found"
        return message

    return check


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--learning-rat", "1"], "--learning-rate"),
        (["train", "--steps", "many"], "'--steps'"),
        (["tain"], "No such command 'tain'. Did you mean 'train'"),
        (["train"], "--model is missing.\n--data is missing.\n--out is missing."),
        (["train", "--config", "nothing.yaml"], "nothing.yaml cannot be read"),
        (["generate", "hi"], "Missing option '--adapter'"),
        (["generate", "--adapter", "x"], "Missing argument"),
        (["generate", "--adapter", "x", ""], "An instruction is empty"),
        (["generate", "--adapter", "nothing/here", "hi"], "nothing/here is neither an adapter folder nor"),
        (["generate", "--adapter", "x", "--strength", "-1", "hi"], "'--strength'"),
        (["generate", "--adapter", "x", "--max-new-tokens", "0", "hi"], "'--max-new-tokens'"),
        (["chat", "--adapter", "nothing/here"], "nothing/here is neither an adapter folder nor"),
        (["generate", "--adapter", "x", "  "], "An instruction is empty"),
        (["generate", "--adapter", "x", "--temperature", "inf", "hi"], "--temperature must be a finite number"),
        (["generate", "--adapter", "x", "--top-p", "0.5", "hi"], "--top-p 0.5 would do nothing"),
        (["generate", "--adapter", "x", "--seed", "-1", "hi"], "'--seed'"),
        (["generate", "--adapter", "x", "--seed", "4294967296", "hi"], "'--seed'"),
        (["inspect", "nothing/here"], "nothing/here is not an adapter folder"),
        (["inspect", __file__], f"{__file__} is a file; expected an adapter folder"),
        (["inspect", "x", "--prompt", " "], "--prompt is empty"),
        (["inspect", "x", "--prompt", "hi", "--out", __file__], f"--out {__file__} is a file; it must be a folder"),
        (["demo", "--seed", "4294967296"], "'--seed'"),
        (["demo", "--out", f"{__file__}/x"], f"--out {__file__}/x cannot be made: {__file__} is a file"),
        (["demo", "--export", __file__], f"--export {__file__} is a file; it must be a folder"),
        (["demo", "--export", "x", "--steps", "3"], "--steps would do nothing: --export trains nothing"),
        (
            ["score", "captions", "x.json", "--references", "y.json", "--out", f"{__file__}/x.json"],
            f"the folder of --out {__file__} is a file",
        ),
    ],
)
def test_arguments(fails, arguments, message):
    assert message in fails(*arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [("learning-rat: 1", "did you mean 'learning_rate'?"), ("steps: many", "'steps' must be a whole number or null")],
)
def test_yaml(fails, tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    assert message in fails("train", "--config", tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("model", "nothing/here", "--model nothing/here is neither a folder with a model nor"),
        ("data", "nothing.jsonl", "there is no file nothing.jsonl"),
        ("retain", "nothing.txt", "nothing.txt"),
        ("template", "alpaka", "template must be one of"),
        ("template", "chat", "no chat template"),
        ("max_length", 1000, "--max-length 1000 is more than the 256 tokens of the model's context"),
        ("max_length", 12, "none of the 4 rows is left to learn from: 4 longer than max_length"),
        ("eval_rows", 4, "--eval-rows 4 leaves none of 4 usable rows"),
        ("r", 0, "--r must be at least 1, got 0."),
        (
            "generator",
            "mlp",
            "needs separate_values=True, or init_weights=True. On the command line init_weights=True is",
        ),
        ("seed", 2**32, "--seed must be at least 0 and at most 4294967295, got 4294967296."),
        ("preset", "papper", "--preset must be one of default, paper"),
        ("top_layers", 9, "top_layers"),
        ("target_modules", "w_k", "w_k"),
    ],
)
def test_train_flags(train_fails, flag, value, message):
    assert message in train_fails(**{flag: value})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no rows"),
        ('{"question": "a", "reply": "b"}', "question, reply"),
        ('{"instruction": "a", "output": "b"}\n{"instruction"', "line 2"),
        ('{"instruction": "a", "output": "b"}\n{"instruction": "a", "output": 3}', "row 2"),
        ('{"instruction": "a", "output": ""}\n{"instruction": "b", "output": " "}', "2 empty answer"),
        ('{"instruction": "a", "output": "b"}', "1 of 1 rows can be used, and at least 2 are needed"),
        ('{"instruction": "a", "output": "' + 300 * "b" + '"}', "none of the 1 rows is left to learn from: 1 longer"),
    ],
)
def test_data(train_fails, tmp_path, content, message):
    path = tmp_path / "wrong.jsonl"
    path.write_text(content)
    error = train_fails(data=path)
    assert message in error


def test_nearest_file_is_named(train_fails, rows):
    assert f"did you mean {rows}?" in train_fails(data=rows.with_name("row.jsonl"))


def test_rows_after_the_hash(train_fails, rows):
    assert "got 'few'" in train_fails(data=f"{rows}#few")


def test_model_without_attention_keys(train_fails, tmp_path):
    MambaConfig(hidden_size=8, num_hidden_layers=1, vocab_size=259).save_pretrained(tmp_path / "mamba")
    make_tokenizer().save_pretrained(tmp_path / "mamba")
    assert "mamba" in train_fails(model=tmp_path / "mamba")


def test_model_of_another_kind(train_fails, tmp_path):
    T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2).save_pretrained(tmp_path / "t5")
    make_tokenizer().save_pretrained(tmp_path / "t5")
    message = train_fails(model=tmp_path / "t5")
    assert "is no causal language model: transformers has no such class for 't5'. excitor train needs a" in message
    assert len(message) < 300 + len(str(tmp_path))


def test_model_without_weights(train_fails, base_dir, tmp_path):
    folder = Path(shutil.copytree(base_dir, tmp_path / "base"))
    (folder / "model.safetensors").unlink()
    assert f"--model {folder} holds no weights: expected model.safetensors" in train_fails(model=folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": -8, "target_modules": ["q_proj"]}, "lora.json: `r` should be a positive integer"),
        ({"target_modules": ["qq"]}, "lora.json names no layer of --model"),
        ({"rr": 8}, "lora.json: Unexpected keyword arguments ['rr']"),
    ],
)
def test_another_method_that_cannot_be_made(train_fails, tmp_path, fields, message):
    (tmp_path / "lora.json").write_text(json.dumps({"peft_type": "LORA"} | fields))
    assert message in train_fails(adapter_config=tmp_path / "lora.json", learning_rate=1e-3)


def test_tokenizer_without_end(train_fails, base_dir, tmp_path):
    folder = shutil.copytree(base_dir, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    assert "has no EOS token" in train_fails(model=folder)


def test_out_is_taken(train_fails, tmp_path, rows):
    assert f"--out {rows} is a file" in train_fails(out=rows)
    assert "is not empty and holds no run" in train_fails(out=tmp_path)
    below = rows / "below"
    assert f"--out {below} cannot be made: {rows} is a file" in train_fails(out=below)


def test_out_that_may_not_be_written(train_fails, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert f"no permission to write to {tmp_path}" in train_fails(out=tmp_path / "new")


def test_results_would_replace_the_card_of_an_adapter(fails, adapter_dir):
    message = fails("eval", "--adapter", adapter_dir, "--out", adapter_dir)
    assert f"--out {adapter_dir} holds an adapter, and its README.md would be replaced" in message


def test_nothing_to_resume(fails, base_dir, rows, tmp_path):
    message = fails("train", "--model", base_dir, "--data", rows, "--out", tmp_path / "new", "--resume")
    assert "There is no run to resume" in message


def test_no_space_is_found_before_training(train_fails, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
    assert "No space left for" in train_fails()


def test_space_that_ends_later(fails, monkeypatch):
    def train(arguments):
        raise OSError(28, "No space left on device", "out/checkpoint-1")

    monkeypatch.setattr(run, "train", train)
    assert "No space left on the disk" in fails("train")


def test_prompt_longer_than_the_context(fails, adapter_dir):
    message = fails("generate", "--adapter", adapter_dir, "x" * 300)
    assert "longer than the model's context of 256" in message
    assert "--max-new-tokens" in message


@pytest.mark.parametrize(
    "arguments", [["generate", "hi"], ["chat"], ["eval", "--replies"]], ids=lambda words: words[0]
)
def test_no_room_for_a_prompt(fails, adapter_dir, rows, tmp_path, arguments):
    more = ["--data", rows, "--out", tmp_path / "evaluation"] if arguments[0] == "eval" else []
    message = fails(*arguments, "--adapter", adapter_dir, "--max-new-tokens", 256, *more)
    assert "--max-new-tokens 256 leaves no room for a prompt" in message


def test_adapter_for_another_base(fails, adapter_dir, tmp_path):
    make_llama(hidden_size=48).save_pretrained(tmp_path / "wide")
    make_tokenizer().save_pretrained(tmp_path / "wide")
    message = fails("generate", "--adapter", adapter_dir, "--base", tmp_path / "wide", "hi")
    assert "self_attn.k_proj" in message


def test_base_that_is_gone(fails, adapter_dir, tmp_path):
    folder = Path(shutil.copytree(adapter_dir, tmp_path / "adapter"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "gone/away"}))
    assert "the base model gone/away" in fails("generate", "--adapter", folder, "hi")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"[1]", b'{"peft_type": "NOVEL"}'])
@pytest.mark.parametrize("subcommand", [["generate", "hi", "--adapter"], ["inspect"]])
def test_damaged_adapter(fails, adapter_dir, tmp_path, name, content, subcommand):
    folder = Path(shutil.copytree(adapter_dir, tmp_path / "adapter"))
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    assert str(folder) in fails(*subcommand, folder)


@pytest.mark.parametrize("subcommand", [["generate", "hi", "--adapter"], ["inspect"]])
def test_adapter_of_a_run_that_diverged(fails, adapter_dir, tmp_path, subcommand):
    folder = Path(shutil.copytree(adapter_dir, tmp_path / "adapter"))
    tensors = load_file(folder / "adapter_model.safetensors")
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, folder / "adapter_model.safetensors")
    message = fails(*subcommand, folder)
    assert f"the numbers of {name} are not all finite" in message
    assert str(folder) in message


@pytest.mark.parametrize(
    ("name", "content", "subcommand"),
    [
        ("run.yaml", "template: [a", ["generate", "hi", "--adapter"]),
        ("run.yaml", "just words", ["generate", "hi", "--adapter"]),
        ("run.yaml", "template: [a", ["eval", "--out", "x", "--adapter"]),
        ("tokenizer_config.json", '{"a"', ["generate", "hi", "--adapter"]),
        ("report.json", "{}", ["inspect"]),
        ("report.json", '{"learned": {"base": "a", "change": 1}, "forgotten": {"change": 1, "kl": 1}}', ["inspect"]),
    ],
)
def test_damaged_files_beside_the_adapter(fails, adapter_dir, tmp_path, name, content, subcommand):
    folder = Path(shutil.copytree(adapter_dir, tmp_path / "adapter"))
    (folder / name).write_text(content)
    assert str(folder) in fails(*subcommand, folder)
