"""The trainers people use take the method as they take LoRA."""

import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from excitor import ExcitorConfig, gates, load_adapter
from tiny import make_llama


ROWS = [{"input_ids": list(range(5 + i, 25 + i)), "labels": list(range(5 + i, 25 + i))} for i in range(16)]
OPTIONS = {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "report_to": "none", "use_cpu": True, "seed": 1}


def frozen(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if "excitor_" not in name}


def assert_learned(model, before: dict[str, torch.Tensor], history: list[dict]) -> None:
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.02
    assert all(gate.abs().sum() > 0 for gate in gates(model).values())
    after = frozen(model)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_transformers_trainer(tmp_path) -> None:
    model = get_peft_model(make_llama(), ExcitorConfig(task_type="CAUSAL_LM"))
    before = frozen(model)
    arguments = TrainingArguments(str(tmp_path), max_steps=12, logging_steps=1, **OPTIONS)
    trainer = Trainer(model, arguments, train_dataset=Dataset.from_list(ROWS))
    trainer.train()
    assert_learned(model, before, trainer.state.log_history)


def test_transformers_trainer_on_a_model_with_add_adapter(tmp_path) -> None:
    model = make_llama()
    model.add_adapter(ExcitorConfig())
    before = frozen(model)
    arguments = TrainingArguments(str(tmp_path), max_steps=12, logging_steps=1, **OPTIONS)
    trainer = Trainer(model, arguments, train_dataset=Dataset.from_list(ROWS))
    trainer.train()
    assert_learned(model, before, trainer.state.log_history)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_trl_sft_trainer_with_peft_config(base_dir: str, tmp_path, tokenizer, checkpointing: bool) -> None:
    arguments = SFTConfig(
        str(tmp_path), max_steps=12, logging_steps=1, gradient_checkpointing=checkpointing, bf16=False, **OPTIONS
    )
    trainer = SFTTrainer(
        base_dir,
        arguments,
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
        peft_config=ExcitorConfig(task_type="CAUSAL_LM"),
    )
    before = frozen(trainer.model)
    trainer.train()
    assert_learned(trainer.model, before, trainer.state.log_history)
    trainer.save_model(str(tmp_path / "final"))
    tokens = torch.arange(5, 25)[None]
    loaded, _ = load_adapter(str(tmp_path / "final"))
    assert torch.equal(loaded(tokens).logits, trainer.model.eval()(tokens).logits)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    tokens = torch.arange(5, 25)[None]
    gradients = []
    for checkpointing in (False, True):
        model = get_peft_model(make_llama(), ExcitorConfig(init_weights=False)).train()
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        torch.manual_seed(0)
        model(input_ids=tokens, labels=tokens).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
