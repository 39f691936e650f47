import pytest
import torch

from excitor.config import ExcitorConfig
from excitor.errors import ExcitorError
from excitor.preservation.regularizer import Preservation
from excitor.preservation.weights import Weights
from excitor.train.prepare import prepare
from excitor.train.trainer import deterministic, make_trainer, total_steps


def one_batch(job):
    """A trainer, and all rows of the job as one batch."""
    trainer = make_trainer(job, [])
    return trainer, next(iter(trainer.get_train_dataloader()))


def loss_and_gradients(trainer, batch):
    model = trainer.model.train()
    model.zero_grad()
    loss = trainer.compute_loss(model, dict(batch))
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
    return loss.item(), gradients


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_examples_do_not_see_each_other(arguments, attention):
    common = {"batch_size": 10, "gate_init_std": 1.0}
    plain, padded = one_batch(prepare(arguments(**common)))
    packing, packed = one_batch(prepare(arguments(packing=True, max_length=200, **common)))
    assert padded["input_ids"].shape[0] == 10
    assert packed["input_ids"].shape[0] == 1
    for trainer in (plain, packing):
        trainer.model.set_attn_implementation(attention)
    expected, expected_gradients = loss_and_gradients(plain, padded)
    loss, gradients = loss_and_gradients(packing, packed)
    assert loss == pytest.approx(expected, abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-5, rtol=1e-4, msg=name)

    # The positions are what keeps the examples apart: without them the loss is another one.
    joined = {key: value for key, value in packed.items() if key in ("input_ids", "labels", "attention_mask")}
    joined["attention_mask"] = torch.ones_like(packed["input_ids"])
    assert abs(loss_and_gradients(packing, joined)[0] - expected) > 1e-2


def test_the_adapter_goes_through_the_trainers_own_peft_config(arguments):
    trainer = make_trainer(prepare(arguments(gradient_checkpointing=True)), [])
    assert isinstance(trainer.model.peft_config["default"], ExcitorConfig)
    assert trainer.model.get_nb_trainable_parameters()[0] == prepare(arguments()).trainable


def test_a_base_in_bf16_has_an_adapter_in_fp32(arguments):
    trainer = make_trainer(prepare(arguments(precision="bf16")), [])
    dtypes = {parameter.requires_grad: parameter.dtype for parameter in trainer.model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}


def test_determinism_is_asked_for_while_training_only():
    with deterministic():
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.parametrize(
    "change", [{"epochs": 2.5, "gradient_accumulation": 2}, {"epochs": 1.0, "packing": True}, {"steps": 3}]
)
def test_steps_are_known_beforehand(arguments, change):
    trainer = make_trainer(prepare(arguments(**({"steps": None, "batch_size": 3} | change))), [])
    expected = total_steps(trainer)
    trainer.train()
    assert trainer.state.global_step == expected


@pytest.mark.parametrize("backend", ["is_deepspeed_enabled", "is_fsdp_enabled"])
def test_preservation_losses_are_refused_where_they_would_go_wrong(arguments, backend):
    trainer = make_trainer(prepare(arguments()), [])
    setattr(trainer, backend, True)
    with pytest.raises(ExcitorError, match="do not work with DeepSpeed or FSDP"):
        trainer.preserve(Preservation(trainer.model, Weights(gate=1.0)))
    assert trainer.preservation is None
