import copy
import importlib
import json

import pytest
import torch
from peft import PeftModel, get_peft_model

from excitor import ExcitorConfig, ExcitorError
from excitor.layer import excitor_layers
from excitor.rope import ROTATE_HALVES, Rotation
from literal_scores import literal_scores
from tiny import make_llama
from tiny_families import VARIANTS, make_family


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)
SMALL = {"r": 3, "num_prompts": 5, "init_weights": False, "task_type": "CAUSAL_LM"}


def adapted(base=None, **changes) -> PeftModel:
    torch.manual_seed(1)
    return get_peft_model(base or make_llama(), ExcitorConfig(**(SMALL | {"rope": "after"} | changes))).eval()


def config_of(model) -> str:
    return model.config.get_text_config().model_type


KNOWN = [name for name in VARIANTS if config_of(make_family(name)) in ROTATE_HALVES]


@pytest.mark.parametrize("name", KNOWN)
def test_the_literal_formula_has_an_extra_key_that_is_not_rotated(name: str) -> None:
    frozen = make_family(name, attn_implementation="eager").requires_grad_(False)
    attention = "eager" if name == "gemma2" else None
    model = adapted(make_family(name, attn_implementation=attention)).double()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    logits = model(input_ids=TOKENS).logits
    cotangent = torch.randn_like(logits)
    gradients = torch.autograd.grad((logits * cotangent).sum(), parameters)
    with literal_scores(frozen, model, rotated=True):
        assert (frozen(input_ids=TOKENS).logits - logits).abs().max() > 0.01
    with literal_scores(frozen, model, rotated=False):
        expected = frozen(input_ids=TOKENS).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    wanted = torch.autograd.grad((expected * cotangent).sum(), parameters)
    for gradient, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5 * max(1.0, other.abs().max().item()), rtol=1e-5)


def test_every_architecture_that_is_known_is_tested() -> None:
    assert {config_of(make_family(name)) for name in KNOWN} == ROTATE_HALVES


def test_a_rotation_that_stretches_is_undone_too() -> None:
    """Some models multiply cosine and sine by a factor."""
    file = importlib.import_module("transformers.models.llama.modeling_llama")
    attention = torch.nn.Linear(1, 1)
    rotation = Rotation(attention)
    angles = torch.randn(2, 7, 6).repeat(1, 1, 2)
    rotation._read(attention, (), {"position_embeddings": (1.3 * angles.cos(), 1.3 * angles.sin())})
    term = torch.randn(2, 7, 4 * 12)
    back = rotation.undo(term, 4).unflatten(-1, (4, 12)).transpose(1, 2)
    rotated, _ = file.apply_rotary_pos_emb(back, back, 1.3 * angles.cos(), 1.3 * angles.sin())
    torch.testing.assert_close(rotated.transpose(1, 2).flatten(-2), term, atol=1e-5, rtol=1e-5)


def test_cached_decoding_and_padding_give_the_same_tokens() -> None:
    model = adapted()
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    cached, plain = (model.generate(input_ids=TOKENS[:1], use_cache=cache, **settings) for cache in (True, False))
    assert torch.equal(cached, plain)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), TOKENS[:1]], 1)
    mask = (padded != 0).long()
    assert torch.equal(model.generate(input_ids=padded, attention_mask=mask, **settings)[:, 3:], cached)


def test_activations_that_are_computed_again_see_the_same_angles() -> None:
    model = adapted().train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
        model.zero_grad()
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_it_is_saved_and_adapters_of_both_kinds_live_together(tmp_path) -> None:
    model = adapted()
    expected = model(TOKENS).logits
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["rope"] == "after"
    loaded = PeftModel.from_pretrained(make_llama(), tmp_path)
    assert torch.equal(loaded(TOKENS).logits, expected)
    loaded.load_adapter(tmp_path, "other")
    for layer in excitor_layers(loaded).values():
        assert layer.excitor_unrotated["other"] is layer.excitor_unrotated["default"]
        del layer.excitor_unrotated["other"]
    loaded.set_adapter("other")
    assert not torch.allclose(loaded(TOKENS).logits, expected)
    loaded.set_adapter("default")
    assert torch.equal(loaded(TOKENS).logits, expected)
    assert torch.equal(copy.deepcopy(loaded)(TOKENS).logits, expected)


def test_what_is_switched_off_or_unloaded_is_the_base() -> None:
    base = make_llama()(TOKENS).logits
    model = adapted()
    with model.disable_adapter():
        assert torch.equal(model(TOKENS).logits, base)
    unloaded = adapted().unload()
    assert torch.equal(unloaded(TOKENS).logits, base)
    assert not any(module._forward_pre_hooks for module in unloaded.modules())


def test_a_deleted_adapter_leaves_nothing_for_one_of_its_name() -> None:
    model = adapted()
    model.add_adapter("other", ExcitorConfig(**SMALL))
    model.delete_adapter("default")
    model.add_adapter("default", ExcitorConfig(**SMALL))
    assert not any(layer.excitor_unrotated for layer in excitor_layers(model).values())


def test_rows_with_positions_of_their_own_need_one_adapter() -> None:
    model = adapted()
    expected = model(TOKENS).logits
    model.add_adapter("other", ExcitorConfig(**SMALL, rope="after"))
    mixed = model(TOKENS, adapter_names=["default", "other"]).logits
    torch.testing.assert_close(mixed[0], expected[0])
    positions = torch.stack([torch.arange(11), torch.arange(1, 12)])
    with pytest.raises(ExcitorError, match="rope='after' cannot run several adapters in one batch"):
        model(TOKENS, position_ids=positions, adapter_names=["default", "other"])


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(ExcitorError, match="rope must be one of before, after, got 'between'"):
        ExcitorConfig(rope="between")
    for name in ("gpt2", "cohere", "phi", "llama4"):
        with pytest.raises(ExcitorError, match="rope='after' is not known for architecture"):
            adapted(make_family(name))
    layer = next(iter(excitor_layers(adapted()).values()))
    with pytest.raises(ExcitorError, match="called with position_embeddings"):
        layer(torch.randn(1, 2, 32))
