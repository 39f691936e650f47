import json
import shutil
from pathlib import Path

import peft
import pytest
import torch

import excitor
from excitor.diagnostics.files import describe
from tiny import make_llama


def copy(source: str, target: Path) -> Path:
    return Path(shutil.copytree(source, target / "copy"))


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("Once there was a cat.\n\n" + "The cat sat on the mat. " * 20 + "\n\nThen it rained.\n")
    return path


def test_terminal_shows_everything_without_the_base(command, adapter_dir, tmp_path):
    folder = copy(adapter_dir, tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "gone/away"}))
    result = command("inspect", folder)
    assert result.code == 0
    assert "gone/away" in result.out
    gates = describe(folder)["layers"][0]["gates"]
    assert "  ".join(f"{gate:+.4f}" for gate in gates) in result.out
    assert "Doctor: no sign of" in result.out


def test_many_heads_are_shades(command, tmp_path):
    model = make_llama(num_attention_heads=16, num_key_value_heads=16, head_dim=2)
    adapted = peft.get_peft_model(model, excitor.ExcitorConfig(r=2, num_prompts=2, layers_to_transform=[1]))
    with torch.no_grad():
        adapted.get_parameter("base_model.model.model.layers.1.self_attn.k_proj.excitor_processor.default.gate").copy_(
            torch.tensor([0.0, 0.25, 0.5, -0.75, 1.0] + [0.0] * 11)
        )
    excitor.save_adapter(adapted, tmp_path)
    assert "·░▒▓█···········" in command("inspect", tmp_path).out


@pytest.mark.parametrize(
    ("switches", "shown"),
    [
        ({"gate_init": 0.0, "init_weights": True}, "largest gate 0.0000"),
        ({"gate": "none"}, "fixed at 1"),
        ({"gate": "layer", "gate_init": 0.5}, "+0.5000"),
        ({"num_prompts": 0, "num_local_prompts": 2}, "parameters: local"),
    ],
    ids=str,
)
def test_every_kind_of_gate(command, tmp_path, switches, shown):
    config = excitor.ExcitorConfig(**({"r": 2, "num_prompts": 2} | switches))
    excitor.save_adapter(peft.get_peft_model(make_llama(), config), tmp_path)
    assert shown in command("inspect", tmp_path).out


def test_report_of_the_training_run_is_shown_and_judged(command, adapter_dir, tmp_path):
    folder = copy(adapter_dir, tmp_path)
    losses = {"base": 4.25, "adapter": 3.5, "change": -0.75, "tokens": 10}
    report = {
        "learned": losses | {"rows": 3},
        "forgotten": {**losses, "change": 0.5, "kl": 0.5, "flipped": 0.2, "documents": 2, "source": "story.txt"},
    }
    (folder / "report.json").write_text(json.dumps(report))
    out = command("inspect", folder).out
    assert "-0.7500" in out
    assert "over-modification" in out
    assert "rose by 0.500 nats (> 0.1)" in out
    shown = json.loads(command("inspect", folder, "--json").out)
    assert shown["report"] == report
    assert [finding["name"] for finding in shown["findings"]] == ["over-modification"]


def test_prompt_is_rendered_as_in_training(command, adapter_dir, tmp_path):
    folder = copy(adapter_dir, tmp_path)
    (folder / "run.yaml").write_text("template: instruction\n")
    rendered = json.loads(command("inspect", folder, "--prompt", "Hi", "--json").out)
    assert "".join(rendered["attention"]["tokens"]) == "### Instruction:\nHi\n\n### Response:\n"
    verbatim = json.loads(command("inspect", folder, "--prompt", "Hi there", "--verbatim", "--json").out)
    assert "".join(verbatim["attention"]["tokens"]) == "Hi there"
    assert verbatim["measurement"]["tokens"] == 8
    assert [layer["index"] for layer in verbatim["measurement"]["layers"]] == [1, 2]


def test_terminal_shows_what_was_measured(command, adapter_dir, text):
    out = command("inspect", adapter_dir, "--text", text, "--layer", 2, "--head", 1).out
    assert "Measured on" in out
    assert "layer 2, query head 1" in out
    (row,) = [line.split() for line in out.splitlines() if line.startswith("    1 ")]
    assert len(row) == 10
    assert float(row[1]) <= float(row[2]) <= float(row[3])  # mean shift, largest, bound


def test_local_and_null_prompts_have_columns(command, base_dir, tmp_path):
    base = make_llama()
    base.name_or_path = base_dir
    config = excitor.ExcitorConfig(r=2, num_prompts=2, null_prompt=True, init_weights=False)
    excitor.save_adapter(peft.get_peft_model(base, config), tmp_path)
    out = command("inspect", tmp_path, "--prompt", "Hi").out
    assert "local: share of the local prompts; null: share of the null prompt" in " ".join(out.split())
    (row,) = [line.split() for line in out.splitlines() if line.startswith("    1 ") and "+" not in line]
    assert len(row) == 11


def test_documents_of_a_text(command, adapter_dir, text):
    measured = [
        json.loads(command("inspect", adapter_dir, "--text", text, "--json", *more).out)["measurement"]
        for more in ([], ["--documents", 1])
    ]
    assert [each["documents"] for each in measured] == [4, 1]  # the long one is in two pieces
    assert measured[0]["tokens"] > 480


def test_strength_counts(command, adapter_dir):
    shifts = []
    for strength in (0, 1):
        out = command("inspect", adapter_dir, "--prompt", "Hi", "--strength", strength, "--json").out
        shifts.append(max(json.loads(out)["measurement"]["layers"][0]["shift"]))
    assert shifts[0] == 0 < shifts[1]


def test_folder_with_numbers_and_pictures(command, adapter_dir, tmp_path):
    out = tmp_path / "new" / "folder"
    result = command("inspect", adapter_dir, "--prompt", "Hi $5", "--out", out, "--json")
    assert json.loads((out / "inspection.json").read_text()) == json.loads(result.out)
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert pictures == ["attention.png", "drift.png", "shift.png", "usage.png"]
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "a", "--text", "b"], "Give --prompt or --text, not both"),
        (["--out", "x"], "--out belongs to what is measured: give --prompt, --text or --image too"),
        (["--strength", "0.5"], "--strength belongs to what is measured"),
        (["--text", "a", "--verbatim"], "--verbatim belongs to what is measured: give --prompt too"),
        (["--prompt", "a", "--documents", "3"], "--documents belongs to what is measured: give --text too"),
        (["--prompt", "a", "--layer", "0"], "Layer 0 is not adapted; the adapted layers are 1, 2"),
        (["--prompt", "a" * 300], "the model's context is 256"),
    ],
    ids=str,
)
def test_mistakes(command, adapter_dir, options, message):
    result = command("inspect", adapter_dir, *options)
    assert result.code == 2
    assert message in result.err
