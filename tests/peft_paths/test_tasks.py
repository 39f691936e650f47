"""Task types other than language modelling: the head is trained and saved beside the adapter."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import (
    LlamaConfig,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
)

from excitor import ExcitorConfig
from tiny import make_llama


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)
TASKS = pytest.mark.parametrize(
    ("task", "model_class", "labels"),
    [
        ("SEQ_CLS", LlamaForSequenceClassification, {"labels": torch.tensor([0, 2])}),
        ("TOKEN_CLS", LlamaForTokenClassification, {"labels": torch.arange(22).view(2, 11) % 3}),
        (
            "QUESTION_ANS",
            LlamaForQuestionAnswering,
            {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])},
        ),
        ("FEATURE_EXTRACTION", LlamaModel, {}),
    ],
)


def make_base(model_class):
    values = make_llama().config.to_dict() | {"num_labels": 3}
    torch.manual_seed(0)
    return model_class(LlamaConfig(**values))


def make(model_class, task: str) -> PeftModel:
    return get_peft_model(make_base(model_class), ExcitorConfig(task_type=task, init_weights=False))


def outputs(model, **arguments) -> torch.Tensor:
    found = model(input_ids=TOKENS, **arguments)
    return next(found[name] for name in ("logits", "start_logits", "last_hidden_state") if name in found)


@TASKS
def test_training_moves_adapter_and_head_and_both_are_saved(tmp_path, task: str, model_class, labels: dict) -> None:
    model = make(model_class, task).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = model(input_ids=TOKENS, **labels)
    (found.loss if labels else found.last_hidden_state.sum()).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
    heads = {name for name in moved if "excitor_" not in name}
    assert heads if labels else not heads
    assert all(".modules_to_save.default." in name for name in heads)
    model.eval().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_base(model_class), tmp_path)
    assert type(loaded) is type(model)
    assert torch.equal(outputs(loaded), outputs(model))


@TASKS
def test_rows_of_a_mixed_batch_use_their_own_head(task: str, model_class, labels: dict) -> None:
    model = make(model_class, task)
    model.add_adapter("other", ExcitorConfig(task_type=task, init_weights=False, r=3))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".modules_to_save.other." in name:
                parameter.add_(1.0)
    model.eval()
    expected = []
    for name in ("default", "other"):
        model.set_adapter(name)
        expected.append(outputs(model))
    mixed = outputs(model, adapter_names=["default", "other"])
    for row in range(2):
        torch.testing.assert_close(mixed[row], expected[row][row], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)
