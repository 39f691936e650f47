"""The method on quantised bases: it only adds to what the key projection gives, whatever gave it.

The fake backend always runs; the others where they are installed, all of them by ``make test-quantised``.
"""

import copy
import importlib

import pytest
import torch
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from excitor import ExcitorConfig, ExcitorError, ExcitorLayer, load_adapter, save_adapter
from excitor.layer import excitor_layers
from excitor.quantised import check_bits, chosen_bits, load_base
from fake_quantised import FakeQuantisedLinear, fake_quantise
from tiny import make_llama, make_tokenizer


TOKENS = torch.arange(5, 45).view(2, 20)
SIZES = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}  # backends want multiples of 32
CONFIG = {"init_weights": False, "r": 4, "num_prompts": 5, "task_type": "CAUSAL_LM"}


def load_fake(source: str) -> PreTrainedModel:
    return fake_quantise(AutoModelForCausalLM.from_pretrained(source))


def load_nf4(source: str) -> PreTrainedModel:
    return load_base(source, "auto", bits=4)


def load_int8(source: str) -> PreTrainedModel:
    return load_base(source, "auto", bits=8)


def load_quanto(weights: str):
    def load(source: str) -> PreTrainedModel:
        from transformers import QuantoConfig

        return AutoModelForCausalLM.from_pretrained(source, quantization_config=QuantoConfig(weights=weights))

    return load


def load_torchao(weights: torch.dtype):
    def load(source: str) -> PreTrainedModel:
        from torchao.quantization import IntxWeightOnlyConfig, PerGroup
        from transformers import TorchAoConfig

        config = TorchAoConfig(IntxWeightOnlyConfig(weights, PerGroup(32)))
        return AutoModelForCausalLM.from_pretrained(source, quantization_config=config, device_map="cpu")

    return load


def load_hqq(source: str) -> PreTrainedModel:
    """Transformers 5.23 does not quantise with HQQ while it loads."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    model, config = AutoModelForCausalLM.from_pretrained(source), BaseQuantizeConfig(nbits=4, group_size=64)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            parent, _, child = name.rpartition(".")
            layer = HQQLinear(module, config, compute_dtype=torch.float32, device="cpu")
            setattr(model.get_submodule(parent), child, layer)
    return model


BACKENDS = {
    "fake": (None, load_fake, FakeQuantisedLinear),
    "bitsandbytes-nf4": ("bitsandbytes", load_nf4, "Linear4bit"),
    "bitsandbytes-int8": ("bitsandbytes", load_int8, "Linear8bitLt"),
    "torchao-int8": ("torchao", load_torchao(torch.int8), "Linear"),
    "torchao-int4": ("torchao", load_torchao(torch.int4), "Linear"),
    "quanto-int8": ("optimum.quanto", load_quanto("int8"), "QLinear"),
    "quanto-int4": ("optimum.quanto", load_quanto("int4"), "QLinear"),
    "hqq-int4": ("hqq", load_hqq, "HQQLinear"),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("base"))
    make_llama(**SIZES).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(params=BACKENDS)
def load(request: pytest.FixtureRequest, source: str):
    """Loads the base anew, quantised."""
    library, loader, _ = BACKENDS[request.param]
    if library is not None:
        pytest.importorskip(library)
    return lambda: loader(source).eval()


@pytest.fixture
def kind(request: pytest.FixtureRequest, load) -> str:
    expected = BACKENDS[request.node.callspec.params["load"]][2]
    return expected if isinstance(expected, str) else expected.__name__


def adapted(base: PreTrainedModel, **changes) -> PeftModel:
    torch.manual_seed(0)
    return get_peft_model(base, ExcitorConfig(**(CONFIG | changes))).eval()


def trainable(model: PeftModel) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_term_is_added_and_off_is_the_base_bit_for_bit(load, kind: str) -> None:
    base = load()
    expected = base(TOKENS).logits
    model = adapted(base)
    layer = next(iter(excitor_layers(model).values()))
    assert type(layer.base_layer).__name__ == kind
    assert {parameter.dtype for parameter in trainable(model).values()} == {torch.float32}
    x = torch.randn(2, 3, 64, dtype=base.dtype)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + layer.term("default", x).to(base.dtype))
    assert (model(TOKENS).logits - expected).abs().max() > 0.1
    with model.disable_adapter():
        assert torch.equal(model(TOKENS).logits, expected)


def test_a_step_trains_every_adapter_tensor_and_nothing_else(load) -> None:
    model = adapted(load())
    frozen = copy.deepcopy({name: p.detach() for name, p in model.state_dict().items() if "excitor_" not in name})
    with torch.no_grad():
        model(TOKENS)  # a look at the model before it is trained must not change how
    parameters = trainable(model)
    assert len(parameters) == 5 * 3
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.01)
    losses = []
    for _ in range(5):
        loss = model.train()(input_ids=TOKENS, labels=TOKENS).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in parameters.values())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    after = model.state_dict()
    assert all(equal(tensor, after[name]) for name, tensor in frozen.items())


def equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Plain tensors by their values, those of a backend's own class by what they stand for."""
    if type(first) is not torch.Tensor and hasattr(first, "dequantize"):
        first, second = first.dequantize(), second.dequantize()
    return torch.equal(first, second)


def test_saved_and_loaded_onto_a_quantised_base(load, tmp_path) -> None:
    model = adapted(load())
    save_adapter(model, tmp_path)
    again = PeftModel.from_pretrained(load(), tmp_path).eval()
    assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)


def skip_where_rows_depend_on_their_batch(kind: str) -> None:
    """Nothing exact can be asked there: the base's own logits for a row move by 0.1 with the batch it is in."""
    if kind == "Linear8bitLt":
        pytest.skip("LLM.int8() treats the columns as outliers that have one anywhere in the batch")


def test_cached_decoding_is_uncached(load, kind: str) -> None:
    skip_where_rows_depend_on_their_batch(kind)
    model = adapted(load())
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    options["attention_mask"] = torch.ones_like(TOKENS)
    uncached = model.generate(input_ids=TOKENS, use_cache=False, **options)
    assert torch.equal(model.generate(input_ids=TOKENS, **options), uncached)


def test_prepared_for_training_with_checkpointing_it_has_the_same_gradients(load) -> None:
    gradients = []
    for prepare in (lambda base: base, prepare_model_for_kbit_training):
        model = adapted(prepare(load())).train()
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in trainable(model).items()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_rows_of_a_mixed_batch(load, kind: str) -> None:
    skip_where_rows_depend_on_their_batch(kind)
    model = adapted(load())
    model.add_adapter("other", ExcitorConfig(**(CONFIG | {"r": 2})))
    model.eval()
    mixed = model(input_ids=TOKENS, adapter_names=["other", "__base__"]).logits
    model.set_adapter("other")
    torch.testing.assert_close(mixed[0], model(TOKENS).logits[0])
    with model.disable_adapter():
        torch.testing.assert_close(mixed[1], model(TOKENS).logits[1])


def test_merging_is_refused(load) -> None:
    with pytest.raises(ExcitorError, match="cannot be merged"):
        adapted(load()).merge_and_unload()


def test_unloading_gives_the_quantised_base_back(load, kind: str) -> None:
    base = load()
    expected = base(TOKENS).logits
    back = adapted(base).unload()
    assert not any(isinstance(module, ExcitorLayer) for module in back.modules())
    assert torch.equal(back(TOKENS).logits, expected)


def test_a_bf16_base_has_keys_in_bf16_and_an_adapter_in_fp32() -> None:
    model = adapted(fake_quantise(make_llama(**SIZES)).to(torch.bfloat16))
    layer = next(iter(excitor_layers(model).values()))
    assert layer(torch.randn(2, 3, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert {parameter.dtype for parameter in trainable(model).values()} == {torch.float32}


# How a base is asked for in 4 or 8 bits.


@pytest.fixture
def without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))


@pytest.fixture
def with_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


def test_a_missing_library_is_one_message(without_bitsandbytes) -> None:
    config = make_llama().config
    with pytest.raises(ExcitorError, match=r"in 4 bits needs bitsandbytes.*pip install 'excitor\[quantised\]'"):
        check_bits(4, config)
    check_bits(None, config)


def test_a_base_that_is_quantised_already_is_not_quantised_again(with_bitsandbytes) -> None:
    config = make_llama().config
    check_bits(8, config)
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(ExcitorError, match=r"stored quantised already \(gptq\).*--no-load-in-8bit"):
        check_bits(8, config)


def test_there_are_four_bits_and_eight() -> None:
    with pytest.raises(ExcitorError, match="bits must be 4 or 8, or None for a base in full, got 2"):
        check_bits(2, make_llama().config)


@pytest.fixture
def runs(tmp_path) -> dict[str, str]:
    """Folders of adapters that were trained on a base in 4 bits, in 8, and in full."""
    for name, line in {"four": "load_in_4bit: true", "eight": "load_in_8bit: true", "full": "seed: 0"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.yaml").write_text(f"template: chat\n{line}\n")
    return {path.name: str(path) for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("flags", "adapters", "bits"),
    [
        ((None, None), [], None),
        ((None, None), ["four"], 4),
        ((None, None), ["eight"], 8),
        ((None, None), ["full"], None),
        ((None, None), ["four", "four"], 4),
        ((None, True), ["four"], 8),
        ((True, None), ["full", "eight"], 4),
        ((False, None), ["four"], None),
        ((None, False), ["four", "eight"], None),
    ],
)
def test_flags_win_over_how_an_adapter_was_trained(runs, flags, adapters, bits) -> None:
    assert chosen_bits(*flags, [runs[name] for name in adapters]) == bits


def test_flags_that_exclude_each_other() -> None:
    with pytest.raises(ExcitorError, match="two ways to load one base"):
        chosen_bits(True, True)


def test_adapters_that_were_trained_differently_have_no_base_in_common(runs) -> None:
    with pytest.raises(ExcitorError, match=r"different ways \(.*four in 4 bits, .*full in full\)"):
        chosen_bits(None, None, [runs["four"], runs["full"]])


def test_loading_an_adapter_asks_for_the_base_it_was_trained_on(source, tmp_path, without_bitsandbytes) -> None:
    base = AutoModelForCausalLM.from_pretrained(source)
    save_adapter(adapted(base), tmp_path)
    (tmp_path / "run.yaml").write_text("load_in_4bit: true\n")
    with pytest.raises(ExcitorError, match="in 4 bits needs bitsandbytes"):
        load_adapter(str(tmp_path))
    assert load_adapter(str(tmp_path), bits=None)[0].get_base_model().dtype == torch.float32
