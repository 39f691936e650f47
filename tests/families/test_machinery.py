"""Terms that are handed from one module to another survive whatever models are put through."""

import copy
import pickle

import pytest
import torch
from peft import PeftModel, get_peft_model

from excitor import ExcitorConfig, set_strength
from excitor.layer import excitor_layers
from tiny import make_llama
from tiny_families import make_family


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)
# One for every way in which the term can meet the key.
WAYS = ["llama", "gpt2", "gpt_neox", "deepseek_v3", "olmo2", "qwen3", "gemma3", "llama4 with key norm"]
EVERY_WAY = pytest.mark.parametrize("name", WAYS)


def config(**changes) -> ExcitorConfig:
    return ExcitorConfig(**({"r": 3, "num_prompts": 5, "init_weights": False, "task_type": "CAUSAL_LM"} | changes))


def adapt(name: str) -> PeftModel:
    base = make_family(name)
    torch.manual_seed(1)
    return get_peft_model(base, config()).double().eval()


def logits(model, **options) -> torch.Tensor:
    return model(input_ids=TOKENS, **options).logits


@EVERY_WAY
def test_no_graph_break_in_an_attention(name: str) -> None:
    model = adapt(name)
    attention = model.get_submodule(next(iter(excitor_layers(model))).rpartition(".")[0])
    seen = []
    hook = attention.register_forward_pre_hook(lambda _, *inputs: seen.append(inputs), with_kwargs=True)
    logits(model, use_cache=False)
    hook.remove()
    ((args, kwargs),) = seen
    torch._dynamo.reset()
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    on = attention(*args, **kwargs)[0]
    torch.testing.assert_close(compiled(*args, **kwargs)[0], on)
    with model.disable_adapter():
        off = attention(*args, **kwargs)[0]
        torch.testing.assert_close(compiled(*args, **kwargs)[0], off)
    assert not torch.allclose(off, on)


@EVERY_WAY
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(name: str, reentrant: bool) -> None:
    model = adapt(name).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(input_ids=TOKENS, labels=TOKENS, use_cache=False).loss.backward()
        return [parameter.grad.clone() for parameter in parameters]

    expected = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    for found, wanted in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@EVERY_WAY
def test_copies_are_models_of_their_own(name: str) -> None:
    model = adapt(name)
    expected = logits(model)
    layers = list(excitor_layers(model).values())
    layers[0](torch.randn(2, 3, layers[0].in_features).double())  # a pass that broke off here, with a graph
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model.base_model.model))):
        set_strength(model, 0)
        torch.testing.assert_close(logits(copied), expected)
        set_strength(model, 1)
        set_strength(copied, 0)
        torch.testing.assert_close(logits(model), expected)
    unloaded = copy.deepcopy(model).unload()
    assert torch.equal(logits(unloaded), logits(make_family(name)))
    torch.testing.assert_close(logits(model), expected)


@EVERY_WAY
def test_a_replica_is_the_model(name: str) -> None:
    """``nn.DataParallel`` runs shallow copies."""
    model = adapt(name)
    torch.testing.assert_close(logits(shallow(model.base_model.model)), logits(model))


def shallow(module: torch.nn.Module) -> torch.nn.Module:
    """What ``nn.parallel.replicate`` makes, on the same device."""
    made = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        made._modules[name] = None if child is None else shallow(child)
    for name, parameter in module._parameters.items():
        made._parameters[name] = parameter
    for name, buffer in module._buffers.items():
        made._buffers[name] = buffer
    return made


@EVERY_WAY
def test_several_adapters_share_the_place(name: str) -> None:
    model = adapt(name)
    torch.manual_seed(2)
    model.add_adapter("other", config(r=2))
    model.double()
    first = logits(model)
    model.set_adapter("other")
    second = logits(model)
    assert not torch.allclose(first, second)
    model.base_model.set_adapter(["default", "other"])
    both = logits(model)
    assert not torch.allclose(both, first)
    set_strength(model, 0)
    assert torch.equal(logits(model), logits(make_family(name)))
    set_strength(model, 1)
    model.base_model.set_adapter(["default"])
    model.delete_adapter("other")
    torch.testing.assert_close(logits(model), first)


@EVERY_WAY
def test_rows_of_a_mixed_batch(name: str) -> None:
    model = adapt(name)
    model.add_adapter("other", config(r=2, num_prompts=0))
    model.double().eval()
    tokens = TOKENS[[0, 1, 0]]
    mixed = model(input_ids=tokens, adapter_names=["other", "__base__", "default"]).logits
    with model.disable_adapter():
        assert torch.equal(mixed[1], model(input_ids=tokens).logits[1])
    for row, adapter in ((0, "other"), (2, "default")):
        model.set_adapter(adapter)
        torch.testing.assert_close(mixed[row], model(input_ids=tokens).logits[row])
    assert not torch.allclose(mixed[0], mixed[2])


@pytest.mark.parametrize(("name", "norm"), [("olmo2", "k_norm"), ("gemma3", "k_norm"), (WAYS[-1], "qk_norm")])
def test_a_pass_that_broke_off_leaves_nothing_behind(name: str, norm: str) -> None:
    model = adapt(name)
    expected = logits(model)
    handed = [getattr(layer.placement, "_handed", None) for layer in excitor_layers(model).values()]
    assert not any(each.terms for each in handed if each)  # no graph is held for longer
    attention = model.base_model.model.model.layers[0].self_attn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(getattr(attention, norm), "forward", None)
        with pytest.raises(TypeError):
            logits(model)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(make_family(name)))
    torch.testing.assert_close(logits(model), expected)


@pytest.mark.parametrize("name", ["q_proj", "v_proj"])
def test_a_layer_that_makes_no_keys_is_a_warning(name: str) -> None:
    with pytest.warns(UserWarning, match=rf"{name} does not make the keys of .*, which k_proj does"):
        get_peft_model(make_llama(), ExcitorConfig(target_modules=[name]))
