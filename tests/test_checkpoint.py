import errno
import json
import os
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import excitor
from excitor import ExcitorConfig, ExcitorError, load_adapter, save_adapter
from excitor.checkpoint import attach_adapter
from tiny import make_llama


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)


@pytest.fixture
def adapted(base_dir) -> PeftModel:
    base = AutoModelForCausalLM.from_pretrained(base_dir)
    return get_peft_model(base, ExcitorConfig(init_weights=False, top_layers=2, task_type="CAUSAL_LM")).eval()


@pytest.fixture
def saved(adapted: PeftModel, tmp_path) -> str:
    save_adapter(adapted, tmp_path / "adapter")
    return str(tmp_path / "adapter")


def edit_weights(folder: str, edit) -> None:
    file = f"{folder}/adapter_model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    "load",
    [
        lambda saved, base: load_adapter(saved)[0],
        lambda saved, base: PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), saved),
        lambda saved, base: PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), saved, low_cpu_mem_usage=True
        ),
        lambda saved, base: AutoPeftModelForCausalLM.from_pretrained(saved),
        lambda saved, base: AutoModelForCausalLM.from_pretrained(saved),
    ],
    ids=["load_adapter", "PeftModel", "PeftModel-meta", "AutoPeftModel", "AutoModel"],
)
def test_every_way_of_loading_gives_the_saved_model(adapted: PeftModel, saved: str, base_dir: str, load) -> None:
    assert torch.equal(load(saved, base_dir)(TOKENS).logits, adapted(TOKENS).logits)


def test_only_the_adapter_is_saved(saved: str) -> None:
    keys = set(load_file(f"{saved}/adapter_model.safetensors"))
    stem = "base_model.model.model.layers.{}.self_attn.k_proj.excitor_{}"
    parts = ["generator.prompts", "generator.local", "processor.A", "processor.B", "processor.gate"]
    assert keys == {stem.format(layer, part) for layer in (1, 2) for part in parts}


def test_transformers_own_adapter_calls(base_dir: str, tmp_path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base_dir)
    base = model(TOKENS).logits
    model.add_adapter(ExcitorConfig(init_weights=False))
    adapted = model(TOKENS).logits
    assert not torch.allclose(adapted, base)
    model.disable_adapters()
    assert torch.equal(model(TOKENS).logits, base)
    model.enable_adapters()
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(TOKENS).logits, adapted)
    again = AutoModelForCausalLM.from_pretrained(base_dir)
    again.load_adapter(str(tmp_path))
    assert torch.equal(again(TOKENS).logits, adapted)


def test_a_second_adapter_is_saved_under_its_own_name(adapted: PeftModel, tmp_path) -> None:
    adapted.add_adapter("other", ExcitorConfig(init_weights=False, r=2))
    save_adapter(adapted, tmp_path / "other", adapter_name="other")
    adapted.set_adapter("other")
    assert torch.equal(load_adapter(str(tmp_path / "other"))[0](TOKENS).logits, adapted(TOKENS).logits)


def test_saving_replaces_and_leaves_nothing_else(adapted: PeftModel, saved: str) -> None:
    save_adapter(adapted, saved)
    assert sorted(os.listdir(saved)) == ["adapter_config.json", "adapter_model.safetensors"]


def test_saving_reads_back_and_compares(adapted: PeftModel, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(file):
        tensors = load_file(file)
        next(iter(tensors.values())).view(-1)[0] += 1
        return tensors

    monkeypatch.setattr(excitor.checkpoint, "load_file", damaged)
    with pytest.raises(ExcitorError, match="the saved adapter differs from the trained one in base_model"):
        save_adapter(adapted, tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_a_full_disk_is_named(adapted: PeftModel, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PeftModel, "save_pretrained", full)
    with pytest.raises(ExcitorError, match=r"no space left to save the adapter in .*MiB free"):
        save_adapter(adapted, tmp_path / "adapter")


def test_a_missing_tensor_is_named(saved: str, base_dir: str) -> None:
    edit_weights(
        saved, lambda tensors: tensors.pop(next(k for k in tensors if "layers.1" in k and k.endswith("gate")))
    )
    with pytest.raises(ExcitorError, match=r"layers\.1\.self_attn\.k_proj.*gate is missing.*trained on"):
        load_adapter(saved)


def test_a_surplus_tensor_is_named(saved: str) -> None:
    edit_weights(
        saved,
        lambda tensors: tensors.update({"base_model.model.model.layers.9.k_proj.excitor_processor.A": torch.ones(1)}),
    )
    with pytest.raises(ExcitorError, match=r"layers\.9\.k_proj\.excitor_processor.* has no place in this model"):
        load_adapter(saved)


def test_a_base_of_another_width_is_named(saved: str) -> None:
    with pytest.raises(ExcitorError, match=r"processor.*A has shape \[32, 16\], this model needs \[40, 16\]"):
        PeftModel.from_pretrained(make_llama(hidden_size=40), saved)


def test_transformers_own_loading_refuses_another_width(saved: str) -> None:
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        make_llama(hidden_size=40).load_adapter(saved)


def test_a_base_of_another_depth_is_named(saved: str) -> None:
    with pytest.raises(ExcitorError, match="model of another depth"):
        PeftModel.from_pretrained(make_llama(num_hidden_layers=2), saved)


def test_a_base_that_moved_is_named(saved: str, base_dir: str) -> None:
    file = Path(saved) / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "/no/such/base"}))
    with pytest.raises(ExcitorError, match="base model /no/such/base"):
        load_adapter(saved)
    assert load_adapter(saved, base=base_dir)[0].active_adapter == "default"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.txt": "hello"}, r"no adapter folder: it has no adapter_config.json \(it holds notes.txt\)"),
        ({"adapter_config.json": '{"peft_type": "EXCITOR"}'}, "has no adapter_model.safetensors"),
        ({"adapter_config.json": "{", "adapter_model.safetensors": ""}, "is not valid JSON"),
        ({"adapter_config.json": '{"peft_type": "NONE"}', "adapter_model.safetensors": ""}, "names no PEFT method"),
    ],
)
def test_folders_that_are_no_adapters(tmp_path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ExcitorError, match=message):
        load_adapter(str(tmp_path))


def test_a_name_that_is_nowhere() -> None:
    with pytest.raises(ExcitorError, match="neither an adapter folder nor an adapter within reach"):
        load_adapter("nobody/nothing")


def test_other_methods_save_and_load_too(base_dir: str, tmp_path) -> None:
    base = AutoModelForCausalLM.from_pretrained(base_dir)
    lora = get_peft_model(base, LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM")).eval()
    save_adapter(lora, tmp_path / "lora")
    assert torch.equal(load_adapter(str(tmp_path / "lora"))[0](TOKENS).logits, lora(TOKENS).logits)


@pytest.mark.parametrize(
    ("llama", "message"), [({"hidden_size": 40}, "size mismatch"), ({"num_hidden_layers": 4}, "no place for")]
)
def test_an_adapter_of_another_architecture_is_refused(tmp_path, llama, message):
    model = get_peft_model(make_llama(**llama), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(str(tmp_path))
    with pytest.raises(ExcitorError, match=f"does not fit the base model.*{message}"):
        attach_adapter(make_llama(), str(tmp_path))


def test_an_adapter_of_fewer_layers_is_refused(tmp_path):
    model = get_peft_model(make_llama(num_hidden_layers=2), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(str(tmp_path))
    with pytest.raises(ExcitorError, match=r"does not fit the base model .*missing adapter keys"):
        attach_adapter(make_llama(), str(tmp_path))


def test_what_cannot_be_saved_is_named(tmp_path):
    model = get_peft_model(make_llama(), ExcitorConfig(), adapter_name="only")
    save_adapter(torch.compile(model), tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()
    with pytest.raises(ExcitorError, match="no adapter 'default' on this model; there are: only"):
        save_adapter(model, tmp_path, "default")
    with pytest.raises(ExcitorError, match=r"save_adapter takes a PeftModel, .* not LlamaForCausalLM"):
        save_adapter(make_llama(), tmp_path)
