"""Several adapters on one model: switch, add, delete, several active at once, copy."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict

from excitor import ExcitorConfig, ExcitorError, set_strength
from excitor.layer import excitor_layers
from tiny import make_llama


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)
FIRST = {"init_weights": False, "task_type": "CAUSAL_LM"}
SECOND = FIRST | {"r": 2, "num_prompts": 4, "num_local_prompts": 1, "top_layers": 2}


@pytest.fixture
def model() -> PeftModel:
    model = get_peft_model(make_llama(), ExcitorConfig(**FIRST), "first")
    model.add_adapter("second", ExcitorConfig(**SECOND))
    return model.eval()


def logits(model: PeftModel, active: str | list[str]) -> torch.Tensor:
    model.base_model.set_adapter(active)
    return model(TOKENS).logits


def alone(fields: dict, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    model = get_peft_model(make_llama(), ExcitorConfig(**fields)).eval()
    model.load_state_dict(
        {key.replace("second", "default").replace("first", "default"): weights[key] for key in weights}, strict=False
    )
    return model(TOKENS).logits


def test_switching_gives_what_each_gives_alone(model: PeftModel) -> None:
    for name, fields in (("first", FIRST), ("second", SECOND), ("first", FIRST)):
        weights = {key: tensor for key, tensor in model.state_dict().items() if f".{name}." in key}
        model.set_adapter(name)
        assert torch.equal(model(TOKENS).logits, alone(fields, weights))
    assert not torch.allclose(logits(model, "first"), logits(model, "second"))


def test_terms_of_adapters_that_are_active_together_add(model: PeftModel) -> None:
    layer = list(excitor_layers(model).values())[-1]
    x = torch.randn(2, 7, 32)
    base = layer.base_layer(x)
    terms = []
    for name in ("first", "second"):
        model.set_adapter(name)
        terms.append(layer(x) - base)
    model.base_model.set_adapter(["first", "second"])
    torch.testing.assert_close(layer(x), base + terms[0] + terms[1])
    assert not torch.allclose(logits(model, ["first", "second"]), logits(model, "first"))


def test_strengths_weigh_the_terms(model: PeftModel) -> None:
    model.base_model.set_adapter(["first", "second"])
    set_strength(model, 0.0, "second")
    assert torch.equal(model(TOKENS).logits, logits(model, "first"))
    with pytest.raises(ExcitorError, match="no adapter 'third' on this model; known are: first, second"):
        set_strength(model, 1.0, "third")


def test_active_adapters_train_and_others_do_not(model: PeftModel) -> None:
    def training() -> set[str]:
        return {
            name
            for name in ("first", "second")
            if any(p.requires_grad for n, p in model.named_parameters() if f".{name}." in n)
        }

    assert training() == {"first"}
    model.set_adapter("second")
    assert training() == {"second"}
    model.base_model.set_adapter(["first", "second"])
    assert training() == {"first", "second"}
    model.set_requires_grad("first", requires_grad=False)
    assert training() == {"second"}
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    layer = list(excitor_layers(model).values())[-1]
    assert layer.parts("first")[1].A.grad is None
    assert layer.parts("second")[1].A.grad.abs().sum() > 0


def test_an_adapter_added_in_training_leaves_the_training_as_it_is() -> None:
    """Two steps with another adapter added in between are the two steps without it."""

    def train(add: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = get_peft_model(make_llama(), ExcitorConfig(**FIRST), "first").train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for step in range(2):
            if step and add:
                model.add_adapter("second", ExcitorConfig(**SECOND))
            model(input_ids=TOKENS, labels=TOKENS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return get_peft_model_state_dict(model, adapter_name="first")

    with_it, without = train(True), train(False)
    assert all(torch.equal(with_it[key], tensor) for key, tensor in without.items())


@pytest.mark.parametrize("active", ["first", "second"])
def test_deleting(model: PeftModel, active: str) -> None:
    kept, gone = ("second", "first") if active == "first" else ("first", "second")
    expected = logits(model, kept)
    model.set_adapter(active)
    model.delete_adapter(gone)
    assert list(model.peft_config) == [kept]
    assert model.active_adapter == kept
    assert torch.equal(model(TOKENS).logits, expected)
    assert not any(f".{gone}." in name for name in model.state_dict())
    assert all(gone not in layer.excitor_strength for layer in excitor_layers(model).values())


def test_deleting_the_last_leaves_the_base(model: PeftModel) -> None:
    model.delete_adapter("first")
    model.delete_adapter("second")
    assert torch.equal(model.base_model.model(TOKENS).logits, make_llama()(TOKENS).logits)


def test_names_that_are_not_there_are_refused(model: PeftModel) -> None:
    with pytest.raises(ExcitorError, match="no adapter 'typo'; known are: first, second"):
        model.base_model.set_adapter(["first", "typo"])
    with pytest.raises(ValueError, match="typo"):
        model.set_adapter("typo")
    with pytest.raises(ValueError, match="typo"):
        model.delete_adapter("typo")
    with pytest.raises(ValueError, match="already exists"):
        model.add_adapter("first", ExcitorConfig(**FIRST))
    assert model.base_model.active_adapters == ["first"]


def test_adapters_that_split_the_keys_differently_are_refused(model: PeftModel) -> None:
    expected = model(TOKENS).logits
    with pytest.raises(ExcitorError, match=r"k_proj carries adapters for key heads of size 12, .* heads of size 6"):
        model.add_adapter("third", ExcitorConfig(head_dim=6, gate="layer", **FIRST))
    assert list(model.peft_config) == ["first", "second"]
    assert torch.equal(model(TOKENS).logits, expected)


def test_a_weighted_combination_is_refused_with_the_way_that_works(model: PeftModel) -> None:
    with pytest.raises(ExcitorError, match=r"set_adapter\(\[a, b\]\).*set_strength"):
        model.add_weighted_adapter(["first", "second"], [0.5, 0.5], "both")


@pytest.mark.parametrize("generator", ["table", "mlp"])
def test_a_copy_is_independent(generator: str) -> None:
    model = get_peft_model(make_llama(), ExcitorConfig(generator=generator, **FIRST)).eval()
    set_strength(model, 0.5)
    twin = copy.deepcopy(model)
    expected = model(TOKENS).logits
    assert torch.equal(twin(TOKENS).logits, expected)
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if "excitor_" in name:
                parameter.add_(1.0)
    set_strength(twin, 2.0)
    assert not torch.allclose(twin(TOKENS).logits, expected)
    assert torch.equal(model(TOKENS).logits, expected)
