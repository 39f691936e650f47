"""Dtypes: masters in fp32 over any base, unless the user says otherwise; loading by way of the meta device."""

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict

from excitor import ExcitorConfig
from excitor.layer import excitor_layers
from tiny import make_llama


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)
DTYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
GENERATORS = pytest.mark.parametrize("generator", ["table", "mlp"])


def config(**fields) -> ExcitorConfig:
    return ExcitorConfig(init_weights=False, task_type="CAUSAL_LM", **fields)


def adapter_dtypes(model, adapter_name: str = "default") -> set[torch.dtype]:
    return {p.dtype for name, p in model.named_parameters() if f".{adapter_name}." in name}


@DTYPES
@pytest.mark.parametrize("autocast", [True, False])
def test_masters_are_fp32_unless_told_to_be_as_the_base(dtype: torch.dtype, autocast: bool, tmp_path) -> None:
    expected = {torch.float32 if autocast else dtype}
    options = {"autocast_adapter_dtype": autocast}
    model = get_peft_model(make_llama().to(dtype), config(), **options)
    model.add_adapter("added", config(), **options)
    model.save_pretrained(tmp_path, selected_adapters=["default"])
    for low in (False, True):
        model.load_adapter(tmp_path, f"loaded_{low}", low_cpu_mem_usage=low, **options)
    assert all(adapter_dtypes(model, name) == expected for name in model.peft_config)
    assert model.eval()(TOKENS).logits.dtype == dtype
    assert model(TOKENS).logits.isfinite().all()


@pytest.mark.parametrize(("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_masters_of_an_injected_adapter_are_fp32_or_better(dtype: torch.dtype, expected: torch.dtype) -> None:
    """As by transformers' own ``add_adapter``, where PEFT does not cast at the end."""
    model = make_llama().to(dtype)
    model.add_adapter(config())
    assert adapter_dtypes(model) == {expected}
    assert model(TOKENS).logits.dtype == dtype


@DTYPES
def test_training_in_every_dtype_moves_masters_of_fp32(dtype: torch.dtype) -> None:
    model = get_peft_model(make_llama().to(dtype), config()).train()
    before = get_peft_model_state_dict(model)
    before = {key: tensor.clone() for key, tensor in before.items()}
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert {p.grad.dtype for n, p in model.named_parameters() if "excitor_" in n} == {torch.float32}
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3).step()
    assert all(not torch.equal(tensor, before[key]) for key, tensor in get_peft_model_state_dict(model).items())


@DTYPES
@GENERATORS
@pytest.mark.parametrize("trainable", [True, False])
def test_loading_by_way_of_the_meta_device_loses_nothing(dtype, generator: str, trainable: bool, tmp_path) -> None:
    model = get_peft_model(make_llama().to(dtype), config(generator=generator)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "excitor_" in name:
                parameter.add_(1e-4)  # below the resolution of half precision
    model.save_pretrained(tmp_path)
    base = make_llama().to(dtype)
    loaded = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=True, is_trainable=trainable).eval()
    held, read = get_peft_model_state_dict(model), get_peft_model_state_dict(loaded)
    assert held.keys() == read.keys()
    assert all(torch.equal(tensor, read[key]) for key, tensor in held.items())
    assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)
    count = sum(p.numel() for p in loaded.parameters() if p.requires_grad)
    assert count == (model.get_nb_trainable_parameters()[0] if trainable else 0)


@DTYPES
def test_seeds_of_the_mlp_stay_one_parameter_for_all_layers(dtype: torch.dtype, tmp_path) -> None:
    def seeds(model) -> set[int]:
        return {id(layer.parts("default")[0].seeds) for layer in excitor_layers(model).values()}

    model = get_peft_model(make_llama().to(dtype), config(generator="mlp"))
    assert len(seeds(model)) == 1
    model.save_pretrained(tmp_path)
    for low in (False, True):
        loaded = PeftModel.from_pretrained(make_llama().to(dtype), tmp_path, low_cpu_mem_usage=low, is_trainable=True)
        assert len(seeds(loaded)) == 1


def test_the_adapter_follows_the_whole_model_to_another_dtype() -> None:
    model = get_peft_model(make_llama(), config()).eval()
    expected = model(TOKENS).logits
    model = model.to(torch.bfloat16)
    assert adapter_dtypes(model) == {torch.bfloat16}
    torch.testing.assert_close(model(TOKENS).logits.float(), expected, atol=0.5, rtol=0.1)


def test_under_autocast_the_masters_stay_as_they_are() -> None:
    model = get_peft_model(make_llama(), config()).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(input_ids=TOKENS, labels=TOKENS).loss
    loss.backward()
    for layer in excitor_layers(model).values():
        gradient = layer.parts("default")[1].A.grad
        assert gradient.dtype == torch.float32
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
