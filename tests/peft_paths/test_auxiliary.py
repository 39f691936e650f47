"""What is trained and saved beside the adapter: whole modules, resized embeddings, single tokens."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from excitor import ExcitorConfig, load_adapter, save_adapter
from tiny import make_llama


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)
FIELDS = {"init_weights": False, "task_type": "CAUSAL_LM"}


def adapted(base, **fields) -> PeftModel:
    model = get_peft_model(base, ExcitorConfig(**(FIELDS | fields)))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    optimizer.step()
    return model.eval()


def keys(folder) -> set[str]:
    return {key for key in load_file(folder / "adapter_model.safetensors") if "excitor_" not in key}


@pytest.mark.parametrize("save", ["save_pretrained", "save_adapter"])
def test_modules_to_save(base_dir: str, tmp_path, save: str) -> None:
    model = adapted(AutoModelForCausalLM.from_pretrained(base_dir), modules_to_save=["lm_head", "embed_tokens"])
    model.save_pretrained(tmp_path) if save == "save_pretrained" else save_adapter(model, tmp_path)
    assert keys(tmp_path) == {"base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight"}
    assert torch.equal(load_adapter(str(tmp_path))[0](TOKENS).logits, model(TOKENS).logits)
    with model.disable_adapter():
        assert torch.equal(model(TOKENS).logits, make_llama()(TOKENS).logits)


def test_each_adapter_has_its_own_copy_of_a_saved_module() -> None:
    model = adapted(make_llama(), modules_to_save=["lm_head"])
    first = model(TOKENS).logits
    model.add_adapter("second", ExcitorConfig(modules_to_save=["lm_head"], **FIELDS))
    model.add_adapter("third", ExcitorConfig(**FIELDS))
    assert torch.equal(model(TOKENS).logits, first)
    for name in ("second", "third"):  # neither has trained the head
        model.set_adapter(name)
        hidden = model(TOKENS, output_hidden_states=True).hidden_states[-1]
        assert torch.equal(model(TOKENS).logits, make_llama().lm_head(hidden)), name
    model.set_adapter("default")
    assert torch.equal(model(TOKENS).logits, first)


@pytest.mark.parametrize("tied", [False, True])
def test_resized_embeddings_travel_with_the_adapter(tmp_path, tied: bool) -> None:
    make_llama(tie_word_embeddings=tied).save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    base.resize_token_embeddings(265)
    model = adapted(base)
    model.save_pretrained(tmp_path / "adapter")
    assert "base_model.model.model.embed_tokens.weight" in keys(tmp_path / "adapter")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    again.resize_token_embeddings(265)
    tokens = torch.tensor([[3, 264, 9, 260, 4]])
    assert torch.equal(PeftModel.from_pretrained(again, tmp_path / "adapter")(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("indices", [[4, 7], {"embed_tokens": [4, 7]}], ids=["list", "dict"])
@pytest.mark.parametrize("tied", [False, True])
def test_single_tokens_are_trained_and_saved(tmp_path, indices, tied: bool) -> None:
    model = adapted(make_llama(tie_word_embeddings=tied), trainable_token_indices=indices)
    table = model.get_input_embeddings()(torch.arange(259))
    changed = (table != make_llama(tie_word_embeddings=tied).get_input_embeddings().weight).any(-1)
    assert changed.nonzero().flatten().tolist() == [4, 7]
    model.save_pretrained(tmp_path)
    assert {key.rsplit(".", 1)[1] for key in keys(tmp_path)} == {"trainable_tokens_delta"}
    loaded = PeftModel.from_pretrained(make_llama(tie_word_embeddings=tied), tmp_path)
    assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)


def test_rows_of_a_mixed_batch_have_their_own_tokens_and_heads() -> None:
    model = adapted(make_llama(), modules_to_save=["lm_head"], trainable_token_indices=[4, 7])
    model.add_adapter("plain", ExcitorConfig(**FIELDS))
    model.eval()
    expected = []
    for name in ("default", "plain"):
        model.set_adapter(name)
        expected.append(model(TOKENS).logits)
    mixed = model(input_ids=TOKENS, adapter_names=["default", "plain"]).logits
    for row in range(2):
        torch.testing.assert_close(mixed[row], expected[row][row], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected[0][1], expected[1][1], atol=1e-3)
