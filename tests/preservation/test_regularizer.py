from dataclasses import fields

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from excitor import ExcitorConfig, ExcitorError
from excitor.preservation.controller import ForgettingController
from excitor.preservation.regularizer import Preservation
from excitor.preservation.replay import ReplayText
from excitor.preservation.weights import Weights
from tiny import make_llama


NAMES = [item.name for item in fields(Weights)]
EVERY_METHOD = ["kl", "prompt_kl", "hidden_drift"]
LORA = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
EXCITOR = ExcitorConfig(r=4, num_prompts=4, gate_init=0.5, prompt_init_std=1.0, init_weights=True)
IDENTITY = ExcitorConfig(r=4, num_prompts=4, gate_init=1.0, init_weights="identity", separate_values=True)


def make(config) -> PeftModel:
    model = get_peft_model(make_llama(), config)
    assert isinstance(model, PeftModel)
    return model.train()


def text(count: int = 12) -> ReplayText:
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randint(3, 259, (8 + number % 5,), generator=generator).tolist() for number in range(count)]
    return ReplayText(documents, [1.0] * count)


def instructions() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, 259, (4, 10), generator=generator)
    labels = ids.clone()
    labels[:, :6] = -100
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


def measured(model: PeftModel, weights: Weights, step: int = 0, **settings) -> dict[str, float]:
    preservation = Preservation(model, weights, text(), **settings)
    list(preservation.losses(instructions(), step))
    return preservation.take_means()


def test_a_fresh_identity_changes_nothing():
    found = measured(make(IDENTITY), Weights(1, 1, 1, 1, 0))
    assert found == pytest.approx({"kl": 0, "prompt_kl": 0, "key_drift": 0, "hidden_drift": 0}, abs=1e-6)


@pytest.mark.parametrize("config", [EXCITOR, LORA], ids=["excitor", "lora"])
def test_kl_and_hidden_drift_are_those_of_two_plain_forwards(config):
    model, replay = make(config).eval(), text(8)
    found = measured_on(model, Weights(kl=1, hidden_drift=1), replay)
    ids, mask = replay.batch(8, (0, 0, 0, 0))
    kl, drift, tokens = 0.0, 0.0, 0
    with torch.no_grad():
        for row, length in zip(ids, mask.sum(1).tolist(), strict=True):
            document = row[None, :length]
            own = model(input_ids=document, output_hidden_states=True)
            with model.disable_adapter():
                base = model(input_ids=document, output_hidden_states=True)
            p, q = base.logits[0, :-1].log_softmax(-1), own.logits[0, :-1].log_softmax(-1)
            kl += (p.exp() * (p - q)).sum().item()
            states = [torch.cat(out.hidden_states[1:]) for out in (own, base)]
            drift += ((states[0] - states[1]).norm(dim=-1) / states[1].norm(dim=-1)).sum().item()
            tokens += length
    assert found["kl"] == pytest.approx(kl / (tokens - 8), rel=1e-4)
    assert found["hidden_drift"] == pytest.approx(drift / tokens / 3, rel=1e-4)


def measured_on(model: PeftModel, weights: Weights, replay: ReplayText) -> dict[str, float]:
    preservation = Preservation(model, weights, replay)
    list(preservation.losses(instructions(), 0))
    return preservation.take_means()


def test_only_prompts_count_for_the_kl_on_prompts():
    model = make(EXCITOR)
    batch = instructions()
    preservation = Preservation(model, Weights(prompt_kl=1))
    list(preservation.losses(batch, 0))
    expected = preservation.take_means()["prompt_kl"]
    with torch.no_grad():
        own = model(input_ids=batch["input_ids"]).logits[:, :5].log_softmax(-1)
        with model.disable_adapter():
            base = model(input_ids=batch["input_ids"]).logits[:, :5].log_softmax(-1)
    assert expected == pytest.approx((base.exp() * (base - own)).sum(-1).mean().item(), rel=1e-4)
    batch["input_ids"][:, 6:] = 7  # the answers
    list(preservation.losses(batch, 0))
    assert preservation.take_means()["prompt_kl"] == pytest.approx(expected, rel=1e-4)


def test_padding_and_borders_of_packed_examples_do_not_count():
    model = make(EXCITOR)
    batch = instructions()
    two = {name: tensor[:2] for name, tensor in batch.items()}
    preservation = Preservation(model, Weights(prompt_kl=1))
    list(preservation.losses(two, 0))
    expected = preservation.take_means()["prompt_kl"]

    padded = {name: torch.nn.functional.pad(tensor, (0, 3)) for name, tensor in two.items()}
    padded["labels"][:, 10:] = -100
    list(preservation.losses(padded, 0))
    assert preservation.take_means()["prompt_kl"] == pytest.approx(expected, rel=1e-4)

    packed = {name: two[name].reshape(1, -1) for name in ("input_ids", "labels")}
    packed["position_ids"] = torch.arange(10).repeat(2)[None]
    list(preservation.losses(packed, 0))
    assert preservation.take_means()["prompt_kl"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("config", "name"),
    [(EXCITOR, name) for name in NAMES] + [(LORA, name) for name in EVERY_METHOD],
    ids=lambda value: value if isinstance(value, str) else value.peft_type.lower(),
)
def test_each_loss_lowers_what_it_measures_and_leaves_the_base_alone(config, name):
    """Against training on the instructions alone, from the same start."""
    results = {}
    for weight in (0.0, 3.0):
        model = make(config)
        base = {key: value.clone() for key, value in model.named_parameters() if not value.requires_grad}
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
        preservation = Preservation(model, Weights(**{name: weight}), text())
        batch = instructions()
        for step in range(20):
            model(**batch).loss.backward()
            for loss in preservation.losses(batch, step):
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        results[weight] = measured(model, Weights(**{name: 1.0}), step=99)[name]
        assert model.training
        for key, value in model.named_parameters():
            assert key not in base or (value.grad is None and torch.equal(value, base[key]))
    assert results[3.0] < 0.8 * results[0.0]


def test_gradients_with_checkpointing_are_the_same():
    gradients = []
    for checkpointing in (False, True):
        model = make(EXCITOR)
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        preservation = Preservation(model, Weights(1, 1, 1, 1, 1), text())
        for loss in preservation.losses(instructions(), 0):
            loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_the_base_is_run_once_for_a_replay_batch(monkeypatch):
    model = make(EXCITOR)
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    measured(model, Weights(kl=1, key_drift=1, hidden_drift=1))
    assert calls == [True, False]
    calls.clear()
    measured(model, Weights(key_drift=1))
    assert calls == [True]


def test_replay_in_every_nth_step_has_n_times_the_weight():
    model = make(EXCITOR)
    each = Preservation(model, Weights(kl=2), text())
    third = Preservation(model, Weights(kl=2), text(), replay_every=3)
    assert [len(list(third.losses(instructions(), step))) for step in range(4)] == [1, 0, 0, 1]
    torch.testing.assert_close(next(third.losses(instructions(), 6)), 3 * next(each.losses(instructions(), 6)))
    assert third.take_means()["kl"] == pytest.approx(each.take_means()["kl"], rel=0.5)


def test_passes_steps_and_processes_replay_different_documents():
    model, replay = make(EXCITOR), text(200)

    def values(**settings):
        preservation = Preservation(model, Weights(kl=1), replay, **settings)
        return [loss.item() for step in (0, 0, 1) for loss in preservation.losses(instructions(), step)]

    assert values() == values()
    assert len({*values(), *values(process=1), *values(seed=1)}) == 9


def test_the_controllers_weight_is_used():
    controller = ForgettingController(0.01, weight=5.0)
    preservation = Preservation(make(EXCITOR), Weights(kl=1), text(), controller=controller)
    (loss,) = preservation.losses(instructions(), 0)
    found = preservation.take_means()
    assert loss.item() == pytest.approx(5 * found["kl"])
    assert found["kl_weight"] == 5
    assert preservation.take_seconds() > 0


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ExcitorError, match="key_drift and gate can be a loss for Excitor only, not for"):
        Preservation(make(LORA), Weights(key_drift=1, gate=1), text())
    with pytest.raises(ExcitorError, match="losses on replay text: give some"):
        Preservation(make(EXCITOR), Weights(kl=1))
