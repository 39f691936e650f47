import json
import shutil

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

import excitor
from excitor.errors import ExcitorError
from excitor.evaluate.arguments import EvalArguments
from excitor.evaluate.subjects import read_lineup, trained_template
from tiny import make_llama, make_tokenizer


IDS = torch.tensor([[5, 6, 7, 8]])

CONFIGS = {
    "lora": LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False),
    "pissa": LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights="pissa"),
    "ia3": IA3Config(target_modules=["k_proj"], feedforward_modules=[], init_ia3_weights=False),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "excitor": excitor.ExcitorConfig(r=2, num_prompts=3, init_weights=False),
}


@pytest.fixture(scope="module")
def adapters(base_dir, tmp_path_factory) -> dict[str, str]:
    """Adapters of several methods on the model of ``base_dir``."""
    folder = tmp_path_factory.mktemp("adapters")
    return {name: save(config, base_dir, folder / name) for name, config in CONFIGS.items()}


def save(config: PeftConfig, base_dir: str, folder, **llama) -> str:
    torch.manual_seed(0)
    base = make_llama(**llama)
    base.name_or_path = base_dir
    get_peft_model(base, config).save_pretrained(str(folder))
    return str(folder)


def load(**arguments) -> dict:
    return {subject.name: subject for subject in read_lineup(EvalArguments(**arguments)).load("auto")}


def logits(subject) -> torch.Tensor:
    with subject.active() as model:
        return model(IDS).logits


def test_adapters_of_all_methods_are_what_peft_loads_and_share_the_base(adapters, base_dir):
    subjects = load(adapter=list(adapters.values()))
    assert list(subjects) == ["base", *adapters]
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(base_dir)
        assert torch.equal(logits(subjects["base"]), base(IDS).logits)
        for name, directory in adapters.items():
            alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_dir), directory)
            assert torch.equal(logits(subjects[name]), alone(IDS).logits), name
            assert not torch.equal(logits(subjects[name]), logits(subjects["base"])), name
    weight = subjects["base"].model.model.embed_tokens.weight
    for name in adapters:
        assert subjects[name].model.get_base_model().model.embed_tokens.weight.data_ptr() == weight.data_ptr()


def test_a_tuned_model_is_compared_with_a_base_or_measured_alone(base_dir, tmp_path):
    make_llama(hidden_size=32, intermediate_size=32).save_pretrained(tmp_path / "tuned")
    make_tokenizer().save_pretrained(tmp_path / "tuned")
    tuned = str(tmp_path / "tuned")
    assert list(load(model=tuned, base=base_dir)) == ["base", "tuned"]
    assert list(load(model=tuned)) == ["tuned"]


def test_subjects_of_the_same_name_are_told_apart(adapters, tmp_path):
    twin = tmp_path / "lora"
    shutil.copytree(adapters["lora"], twin)
    assert list(read_lineup(EvalArguments(adapter=[adapters["lora"], str(twin)])).adapters) == [
        adapters["lora"],
        str(twin),
    ]
    with pytest.raises(ExcitorError, match="given twice"):
        read_lineup(EvalArguments(adapter=[str(twin), str(twin)]))


def edit(adapter: str, folder, **changes) -> str:
    shutil.copytree(adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    return str(folder)


def test_adapters_must_have_a_common_base(adapters, tmp_path):
    other = edit(adapters["lora"], tmp_path / "other", base_model_name_or_path="elsewhere")
    nameless = edit(adapters["lora"], tmp_path / "nameless", base_model_name_or_path=None)
    with pytest.raises(ExcitorError, match=r"trained on different bases .*other on elsewhere"):
        read_lineup(EvalArguments(adapter=[adapters["ia3"], other]))
    with pytest.raises(ExcitorError, match="does not name its base model"):
        read_lineup(EvalArguments(adapter=[nameless]))
    with pytest.raises(ExcitorError, match="elsewhere is neither a folder with a model"):
        read_lineup(EvalArguments(adapter=[other]))


def test_an_adapter_is_no_model(adapters, base_dir):
    with pytest.raises(ExcitorError, match="is an adapter, not a model: name it with --adapter"):
        read_lineup(EvalArguments(model=adapters["lora"], base=base_dir))


@pytest.mark.parametrize(
    ("llama", "message"),
    [({"hidden_size": 40}, "size mismatch"), ({"num_hidden_layers": 4}, "no place for .*layers.3")],
)
def test_an_adapter_of_another_architecture_does_not_load(base_dir, tmp_path, llama, message):
    adapter = save(CONFIGS["lora"], base_dir, tmp_path / "unfit", **llama)
    with pytest.raises(ExcitorError, match=f"does not fit the base model .*{message}"):
        load(adapter=[adapter])


def test_tokenizers_must_agree(base_dir, tmp_path):
    make_llama().save_pretrained(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ExcitorError, match="embeddings for only 259"):
        read_lineup(EvalArguments(model=str(tmp_path), base=base_dir))


def test_length_is_bounded_by_the_context(adapters):
    lineup = read_lineup(EvalArguments(adapter=[adapters["lora"]]))
    assert lineup.context
    assert lineup.length(None) == min(lineup.context, 1024)
    with pytest.raises(ExcitorError, match="is more than"):
        lineup.length(lineup.context + 1)


def test_the_template_is_that_of_training(tmp_path):
    for name, template in (("a", "chat"), ("b", "instruction")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.yaml").write_text(f"template: {template}\n")
    assert trained_template({"a": str(tmp_path / "a")}) == "chat"
    assert trained_template({"c": str(tmp_path)}) == "auto"
    with pytest.raises(ExcitorError, match="different templates"):
        trained_template({name: str(tmp_path / name) for name in "ab"})
