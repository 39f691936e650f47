"""Gradient checkpointing, reentrant or not: the gradients of training without it."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from excitor import ExcitorConfig
from tiny import make_llama


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)
FIELDS = {"init_weights": False, "task_type": "CAUSAL_LM"}


def gradients(model: PeftModel) -> dict[str, torch.Tensor]:
    model.train()
    model(input_ids=TOKENS, labels=TOKENS, use_cache=False).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def make() -> PeftModel:
    return adapted(make_llama())


def adapted(base: LlamaForCausalLM) -> PeftModel:
    torch.manual_seed(0)
    model = get_peft_model(base, ExcitorConfig(**FIELDS))
    model.add_adapter("other", ExcitorConfig(num_local_prompts=1, generator="mlp", **FIELDS))
    model.base_model.set_adapter(["default", "other"])
    return model


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradients_are_those_without_it(reentrant: bool) -> None:
    expected = gradients(make())
    model = make()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    recomputed = [0]
    model.get_base_model().model.layers[1].self_attn.k_proj.register_forward_hook(
        lambda *_: recomputed.__setitem__(0, recomputed[0] + 1)
    )
    found = gradients(model)
    assert recomputed == [2]
    assert found.keys() == expected.keys()
    assert sum("excitor_" in name for name in found) >= 3 * 8
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_a_base_with_checkpointing_on_is_taken_as_it_is() -> None:
    """PEFT makes the inputs need gradients then, or the reentrant form would train nothing."""
    expected = gradients(make())
    base = make_llama()
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    found = gradients(adapted(base))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
