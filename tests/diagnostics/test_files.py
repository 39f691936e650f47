import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import excitor
from excitor.combined import CombinedConfig
from excitor.diagnostics.files import describe
from excitor.errors import ExcitorError
from tiny import make_llama


@pytest.fixture
def saved(adapted, tmp_path):
    """A saved adapter, by the switches of its configuration: its folder and the model."""

    def make(**switches) -> tuple[Path, peft.PeftModel]:
        model = adapted(**switches)
        excitor.save_adapter(model, tmp_path)
        return tmp_path, model

    return make


def test_describe_agrees_with_the_model(saved):
    folder, model = saved(top_layers=2, gate_init_std=0.5)
    adapter = describe(folder)
    gates = excitor.gates(model)
    assert [layer["name"] for layer in adapter["layers"]] == [name.removeprefix("base_model.model.") for name in gates]
    for layer, gate in zip(adapter["layers"], gates.values(), strict=True):
        assert layer["gates"] == gate.tolist()
    prompts = model.get_parameter(
        "base_model.model.model.layers.1.self_attn.k_proj.excitor_generator.default.prompts"
    ).norm(dim=-1)
    assert adapter["layers"][0]["prompt_norm"] == pytest.approx(prompts.mean().item())
    assert adapter["layers"][0]["prompt_spread"] == pytest.approx((prompts.max() / prompts.median()).item())

    # 2 layers; width 32, rank 4, 5 prompts, 2 key heads of 12
    assert adapter["parameters"] == {"total": 692, "A": 2 * 32 * 4, "B": 2 * 4 * 24, "gate": 4, "prompts": 2 * 5 * 24}
    assert adapter["parameters"]["total"] == sum(p.numel() for n, p in model.named_parameters() if "excitor_" in n)
    assert adapter["config"]["num_prompts"] == 5
    assert adapter["config"]["gate_init_std"] == 0.5
    assert adapter["report"] is None


def test_other_trained_modules_are_counted(saved):
    folder, _ = saved(modules_to_save=["lm_head"])
    assert describe(folder)["parameters"]["other modules"] == 259 * 32


def test_layers_are_in_the_order_of_the_model(adapted, tmp_path):
    excitor.save_adapter(adapted(make_llama(num_hidden_layers=11)), tmp_path)
    names = [layer["name"] for layer in describe(tmp_path)["layers"]]
    assert names == [f"model.layers.{index}.self_attn.k_proj" for index in range(11)]


@pytest.mark.parametrize(
    ("switches", "gates", "has_prompts"),
    [
        ({"gate": "none"}, 0, True),
        ({"gate": "layer"}, 1, True),
        ({"separate_values": True, "num_local_prompts": 2, "null_prompt": True}, 2, True),
        ({"num_prompts": 0, "num_local_prompts": 2}, 2, False),
        ({"generator": "mlp"}, 2, True),  # saved as the table it makes
    ],
    ids=str,
)
def test_every_kind_of_adapter(saved, switches, gates, has_prompts):
    folder, _ = saved(**switches)
    adapter = describe(folder)
    for layer in adapter["layers"]:
        assert len(layer["gates"] or []) == gates
        assert (layer["prompt_norm"] is not None) == has_prompts
    assert adapter["parameters"]["total"] == sum(
        tensor.numel() for tensor in load_file(folder / "adapter_model.safetensors").values()
    )


def test_excitor_among_other_methods(tmp_path):
    lora = {"peft_type": "LORA", "r": 3, "target_modules": ["q_proj", "o_proj"]}
    parts = [lora, {"peft_type": "EXCITOR", "r": 4, "num_prompts": 5, "top_layers": 2}]
    model = peft.get_peft_model(make_llama(), CombinedConfig(task_type="CAUSAL_LM", parts=parts))
    excitor.save_adapter(model, tmp_path)
    adapter = describe(tmp_path)
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert adapter["parameters"]["total"] == sum(trained.values())
    assert adapter["parameters"]["other modules"] == sum(n for name, n in trained.items() if "lora_" in name) > 0
    assert [layer["gates"] for layer in adapter["layers"]] == [gate.tolist() for gate in excitor.gates(model).values()]
    config = adapter["config"]
    assert (config["peft_type"], config["combined_with"], config["task_type"]) == ("EXCITOR", ["LORA"], "CAUSAL_LM")
    assert (config["num_prompts"], config["num_local_prompts"]) == (5, 2)  # as given, as by default


def test_prompts_that_peft_saved_as_an_mlp(adapted, tmp_path):
    adapted(generator="mlp").save_pretrained(tmp_path)
    adapter = describe(tmp_path)
    assert adapter["parameters"]["outer"] == 3 * 64 * 24
    assert adapter["layers"][0]["prompt_norm"] is None
    assert adapter["layers"][0]["prompt_spread"] is None


def test_spread_of_values_counts(saved):
    folder, _ = saved(separate_values=True)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("value_prompts"))
    tensors[name][3] *= 100
    save_file(tensors, file)
    assert describe(folder)["layers"][0]["prompt_spread"] > 50


def test_prompts_at_zero_have_no_spread(saved):
    folder, _ = saved(separate_values=True, init_weights="identity", gate_init=1.0)
    assert all(layer["prompt_spread"] < 2 for layer in describe(folder)["layers"])  # that of the keys


def test_what_is_no_excitor_adapter(tmp_path, base_dir):
    peft.get_peft_model(make_llama(), peft.LoraConfig(target_modules=["k_proj"])).save_pretrained(tmp_path)
    with pytest.raises(ExcitorError, match="holds an adapter of type LORA; expected EXCITOR"):
        describe(tmp_path)
    loha = {"peft_type": "LOHA", "target_modules": ["k_proj"]}
    lora = {"peft_type": "LORA", "target_modules": ["q_proj"]}
    peft.get_peft_model(make_llama(), CombinedConfig(parts=[lora, loha])).save_pretrained(tmp_path)
    with pytest.raises(ExcitorError, match="of type COMBINED; expected EXCITOR, or COMBINED with EXCITOR among"):
        describe(tmp_path)
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
def test_damaged_files_are_named(saved, name, content, message):
    folder, _ = saved()
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ExcitorError, match=message):
        describe(folder)


@pytest.mark.parametrize("part", ["gate", "prompts", "A", "local"])
def test_missing_tensors_are_named(saved, part):
    folder, _ = saved(num_local_prompts=1)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    held = {key: tensor for key, tensor in tensors.items() if not (".1." in key and key.endswith(f".{part}"))}
    assert len(held) == len(tensors) - 1
    save_file(held, file)
    with pytest.raises(ExcitorError, match=rf"no {part} in model\.layers\.1\.self_attn\.k_proj"):
        describe(folder)
    save_file({"other": torch.zeros(1)}, file)
    with pytest.raises(ExcitorError, match="it holds no layer"):
        describe(folder)


def test_report_is_read(saved):
    folder, _ = saved()
    report = {"learned": {"base": 2.0, "change": -0.5}, "forgotten": {"change": 0.1, "kl": 0.2}}
    (folder / "report.json").write_text(json.dumps(report))
    assert describe(folder)["report"] == report
