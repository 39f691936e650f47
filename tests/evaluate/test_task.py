import torch
from peft import LoraConfig

from excitor.evaluate.task import Subject
from tiny import make_llama


IDS = torch.tensor([[5, 6, 7]])


def test_exactly_the_subject_is_switched_on(adapted):
    other = LoraConfig(r=2, target_modules=["o_proj"], init_lora_weights=False)
    torch.manual_seed(3)
    adapted.add_adapter("other", other)
    adapted.eval()
    with torch.no_grad():
        first = adapted(IDS).logits
        with adapted.disable_adapter():
            base = adapted(IDS).logits
        adapted.set_adapter("other")
        second = adapted(IDS).logits
    adapted.train()
    subjects = [Subject("a", adapted, "default"), Subject("base", adapted), Subject("b", adapted, "other")] * 2
    for subject, expected in zip(subjects, [first, base, second] * 2, strict=True):
        with subject.active() as model:
            logits = model(IDS).logits
            assert torch.equal(logits, expected)
            assert not logits.requires_grad
            assert not model.training
    assert adapted.training


def test_what_is_trained_stays_trainable(adapted):
    before = [parameter.requires_grad for parameter in adapted.parameters()]
    with Subject("a", adapted, "default").active():
        pass
    with Subject("base", adapted).active():
        pass
    assert [parameter.requires_grad for parameter in adapted.parameters()] == before


def test_a_model_without_adapters_is_a_subject_too():
    model = make_llama()
    with Subject("tuned", model).active() as active:
        assert active is model
