"""The files of an adapter: no pickles, older and newer configurations, the way to the hub and back."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel, get_peft_model

from excitor import ExcitorConfig, ExcitorError, load_adapter, save_adapter
from tiny import make_llama


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)


@pytest.fixture
def model(base_dir: str) -> PeftModel:
    base = make_llama()
    base.name_or_path = base_dir
    config = ExcitorConfig(init_weights=False, task_type="CAUSAL_LM", rank_pattern={"layers.1.self_attn.k_proj": 2})
    return get_peft_model(base, config).eval()


@pytest.fixture
def saved(model: PeftModel, tmp_path) -> str:
    save_adapter(model, tmp_path / "adapter")
    return str(tmp_path / "adapter")


def edit_config(folder: str, edit) -> None:
    file = Path(folder) / "adapter_config.json"
    fields = json.loads(file.read_text())
    edit(fields)
    file.write_text(json.dumps(fields))


def test_nothing_is_pickled(model: PeftModel, tmp_path) -> None:
    model.save_pretrained(tmp_path)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".md", ".safetensors"]


def test_a_pickle_is_refused_with_the_way_out_and_read_by_peft(model: PeftModel, tmp_path) -> None:
    """PEFT reads it by ``torch.load(weights_only=True)``, which runs no code."""
    model.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(ExcitorError, match=r"adapter_model\.bin.*pickle.*save_pretrained"):
        load_adapter(str(tmp_path))
    assert torch.equal(PeftModel.from_pretrained(make_llama(), tmp_path)(TOKENS).logits, model(TOKENS).logits)


def test_a_file_from_before_some_fields_is_read_with_what_was_meant_then(model: PeftModel, saved: str) -> None:
    """Fields that were added later have the defaults under which nothing changes, but for those of the next test."""
    later = ("separate_values", "null_prompt", "temperature", "generator", "trainable_token_indices")
    edit_config(saved, lambda fields: [fields.pop(name) for name in later])
    assert torch.equal(load_adapter(saved)[0](TOKENS).logits, model(TOKENS).logits)


@pytest.mark.parametrize(
    ("fields", "missing", "message"),
    [
        (
            {"rank_pattern": {"layers.1.self_attn.k_proj": 2}},
            "rank_pattern",
            r"has shape \[32, 2\].* needs \[32, 16\]",
        ),
        ({"num_local_prompts": 0}, "num_local_prompts", r"local is missing"),
    ],
)
def test_a_missing_field_that_changes_shapes_is_named_by_its_tensors(tmp_path, fields, missing, message) -> None:
    get_peft_model(make_llama(), ExcitorConfig(**fields)).save_pretrained(tmp_path)
    edit_config(str(tmp_path), lambda written: written.pop(missing))
    with pytest.raises(ExcitorError, match=rf"layers\.\d\.self_attn.*{message}"):
        PeftModel.from_pretrained(make_llama(), tmp_path)


def test_unknown_fields_are_named_and_the_rest_is_read(model: PeftModel, saved: str) -> None:
    edit_config(saved, lambda fields: fields.update(from_the_future=1, peft_version="9.9"))
    with pytest.warns(
        UserWarning, match=r"Unexpected keyword arguments \['from_the_future'\] for class ExcitorConfig"
    ):
        loaded, _ = load_adapter(saved)
    assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda fields: fields.update(r="many"), "r must be a whole number of at least 1, got 'many'"),
        (lambda fields: fields.update(gate="door"), "gate must be one of head, layer, none"),
        (lambda fields: fields.pop("peft_type"), "does not say which PEFT method it is for"),
        (lambda fields: fields.clear(), "does not say which PEFT method it is for"),
        (lambda fields: fields.update(peft_type="NEWER"), "names no PEFT method this installation knows"),
    ],
)
def test_wrong_fields_are_named(saved: str, edit, message: str) -> None:
    edit_config(saved, edit)
    with pytest.raises(ExcitorError, match=message):
        load_adapter(saved)


class LocalHub:
    """Takes what would be uploaded, and puts it where the hub's client keeps what it has downloaded."""

    def __init__(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache = cache
        monkeypatch.setattr(HfApi, "create_repo", lambda _, repo_id, **__: SimpleNamespace(repo_id=repo_id))
        monkeypatch.setattr(HfApi, "create_commit", lambda _, **arguments: self.commit(**arguments))

    def commit(self, repo_id: str, operations, **_) -> None:
        folder = self.cache / f"models--{repo_id.replace('/', '--')}"
        commit = "0" * 40
        for operation in operations:
            file = folder / "snapshots" / commit / operation.path_in_repo
            file.parent.mkdir(parents=True, exist_ok=True)
            with operation.as_file() as content:
                file.write_bytes(content.read())
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)


def test_to_the_hub_and_back(model: PeftModel, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    LocalHub(tmp_path, monkeypatch)
    model.push_to_hub("someone/adapter")
    model.peft_config["default"].push_to_hub("someone/config")
    folder = tmp_path / "models--someone--adapter" / "snapshots" / ("0" * 40)
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    expected = model(TOKENS).logits
    loaded = PeftModel.from_pretrained(make_llama(), "someone/adapter", cache_dir=tmp_path)
    assert torch.equal(loaded(TOKENS).logits, expected)
    loaded = AutoPeftModelForCausalLM.from_pretrained("someone/adapter", cache_dir=tmp_path)
    assert torch.equal(loaded(TOKENS).logits, expected)
    config = PeftConfig.from_pretrained("someone/config", cache_dir=tmp_path)
    assert type(config) is ExcitorConfig
    assert config.rank_pattern == {"layers.1.self_attn.k_proj": 2}


def test_an_adapter_pushed_by_transformers_is_loaded_by_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    LocalHub(tmp_path, monkeypatch)
    model = make_llama()
    model.add_adapter(ExcitorConfig(init_weights=False))
    model.push_to_hub("someone/adapter")
    again = make_llama()
    again.load_adapter("someone/adapter", adapter_kwargs={"cache_dir": tmp_path})
    assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)
