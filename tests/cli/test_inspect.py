import json
import shutil
from pathlib import Path

import peft
import pytest
import torch

import excitor
from excitor.diagnostics.files import describe
from excitor.errors import ExcitorError
from tiny import make_llama


def copy(source: str, target: Path) -> Path:
    return Path(shutil.copytree(source, target / "copy"))


def test_describe_agrees_with_the_loaded_model(adapter_dir):
    adapter = describe(Path(adapter_dir))
    model, _ = excitor.load_adapter(adapter_dir)
    gates = excitor.gates(model)
    assert [layer["name"] for layer in adapter["layers"]] == [name.removeprefix("base_model.model.") for name in gates]
    for layer, gate in zip(adapter["layers"], gates.values(), strict=True):
        assert layer["gates"] == gate.tolist()
    prompts = (
        model.get_submodule("base_model.model.model.layers.1.self_attn.k_proj").excitor_generator["default"].prompts
    )
    torch.testing.assert_close(adapter["layers"][0]["prompt_norm"], prompts.norm(dim=-1).mean().item())

    # 2 layers; width 32, rank 4, 5 prompts, 2 key heads of 12
    assert adapter["parameters"] == {"total": 692, "A": 2 * 32 * 4, "B": 2 * 4 * 24, "gate": 4, "prompts": 2 * 5 * 24}
    assert adapter["parameters"]["total"] == sum(p.numel() for n, p in model.named_parameters() if "excitor_" in n)
    assert adapter["config"]["num_prompts"] == 5
    assert adapter["config"]["gate_init_std"] == 0.0
    assert adapter["report"] is None


def test_other_trained_modules_are_counted(tmp_path):
    config = excitor.ExcitorConfig(r=2, num_prompts=2, modules_to_save=["lm_head"])
    excitor.save_adapter(peft.get_peft_model(make_llama(), config), tmp_path)
    assert describe(tmp_path)["parameters"]["other modules"] == 259 * 32


def test_layers_are_in_the_order_of_the_model(tmp_path):
    model = make_llama(num_hidden_layers=11)
    excitor.save_adapter(peft.get_peft_model(model, excitor.ExcitorConfig(r=2, num_prompts=2)), tmp_path)
    names = [layer["name"] for layer in describe(tmp_path)["layers"]]
    assert names == [f"model.layers.{index}.self_attn.k_proj" for index in range(11)]


def test_terminal_shows_everything_without_the_base(command, adapter_dir, tmp_path):
    folder = copy(adapter_dir, tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "gone/away"}))
    result = command("inspect", folder)
    assert result.code == 0
    assert "gone/away" in result.out
    gates = describe(folder)["layers"][0]["gates"]
    assert "  ".join(f"{gate:+.4f}" for gate in gates) in result.out


def test_many_heads_are_shades(command, tmp_path):
    model = make_llama(num_attention_heads=16, num_key_value_heads=16, head_dim=2)
    adapted = peft.get_peft_model(model, excitor.ExcitorConfig(r=2, num_prompts=2, layers_to_transform=[1]))
    with torch.no_grad():
        adapted.get_parameter("base_model.model.model.layers.1.self_attn.k_proj.excitor_processor.default.gate").copy_(
            torch.tensor([0.0, 0.25, 0.5, -0.75, 1.0] + [0.0] * 11)
        )
    excitor.save_adapter(adapted, tmp_path)
    assert "·░▒▓█···········" in command("inspect", tmp_path).out


def test_untrained_gates(command, tmp_path):
    excitor.save_adapter(peft.get_peft_model(make_llama(), excitor.ExcitorConfig(r=2, num_prompts=2)), tmp_path)
    assert "largest gate 0.0000" in command("inspect", tmp_path).out


def test_report_of_the_training_run_is_shown(command, adapter_dir, tmp_path):
    folder = copy(adapter_dir, tmp_path)
    losses = {"base": 4.25, "adapter": 3.5, "change": -0.75, "tokens": 10}
    report = {
        "learned": losses | {"rows": 3},
        "forgotten": losses | {"kl": 0.1, "flipped": 0.2, "documents": 2, "source": "story.txt"},
    }
    (folder / "report.json").write_text(json.dumps(report))
    assert "-0.7500" in command("inspect", folder).out
    assert json.loads(command("inspect", folder, "--json").out)["report"] == report


def test_what_is_no_excitor_adapter(tmp_path, lora_dir, base_dir):
    with pytest.raises(ExcitorError, match="holds an adapter of type LORA; expected EXCITOR"):
        describe(Path(lora_dir))
    with pytest.raises(ExcitorError, match="is not an adapter folder"):
        describe(Path(base_dir))
    with pytest.raises(ExcitorError, match=r"adapter_config\.json does not exist"):
        describe(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("adapter_config.json", b"{", "adapter_config.json is damaged, not JSON"),
        ("adapter_model.safetensors", None, "the adapter was not saved completely"),
        ("adapter_model.safetensors", b"\x01\x02", "adapter_model.safetensors is damaged"),
        ("report.json", b"", "report.json is damaged"),
    ],
)
def test_damaged_files_are_named(adapter_dir, tmp_path, name, content, message):
    folder = copy(adapter_dir, tmp_path)
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ExcitorError, match=message):
        describe(folder)


def test_missing_tensors_are_named(adapter_dir, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copy(adapter_dir, tmp_path)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file(
        {
            key: tensor
            for key, tensor in tensors.items()
            if not key.endswith("1.self_attn.k_proj.excitor_processor.gate")
        },
        file,
    )
    with pytest.raises(ExcitorError, match=r"no gate in model\.layers\.1\.self_attn\.k_proj"):
        describe(folder)
    save_file({}, file)
    with pytest.raises(ExcitorError, match="it holds no layer"):
        describe(folder)
