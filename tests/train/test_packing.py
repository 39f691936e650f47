import json

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from excitor.errors import ExcitorError
from excitor.train.packing import check_packing
from excitor.train.prepare import prepare
from excitor.train.trainer import make_trainer
from tiny import make_tokenizer
from tiny_families import make_family


FIRST, SECOND = 5, 7
KEPT_APART = ["llama", "gpt2", "gpt_neo", "gemma3", "mixtral", "qwen3", "deepseek_v3", "llama4"]
MIXED_UP = ["opt", "bloom", "falcon, new", "gpt_oss", "qwen2_vl"]


@pytest.mark.parametrize("family", KEPT_APART + MIXED_UP)
def test_a_model_is_refused_where_packed_examples_change_each_other(family):
    model = make_family(family, attn_implementation="eager")
    tokens = torch.arange(3, 3 + FIRST + SECOND)[None]
    positions = torch.cat([torch.arange(FIRST), torch.arange(SECOND)])[None]
    with torch.no_grad():
        alone = model(input_ids=tokens[:, FIRST:], use_cache=False).logits
        packed = model(input_ids=tokens, position_ids=positions, use_cache=False).logits[:, FIRST:]
    assert ((alone - packed).abs().max() < 1e-5) == (family in KEPT_APART)

    labels = tokens.clone()
    labels[:, : FIRST + 1] = -100
    batch = {"input_ids": tokens, "position_ids": positions, "labels": labels}
    if family in MIXED_UP:
        with pytest.raises(ExcitorError, match="lets packed examples see each other"):
            check_packing(model, batch, FIRST)
    else:
        check_packing(model, batch, FIRST)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_run_on_such_a_base_stops_before_training(arguments, tmp_path):
    folder = tmp_path / "opt"
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2, "vocab_size": 259}
    OPTForCausalLM(OPTConfig(num_attention_heads=4, **sizes)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    job = prepare(arguments(model=str(folder), packing=True, max_length=200))
    with pytest.raises(ExcitorError, match=r"--packing: opt with the attention implementation 'sdpa' .* Leave out"):
        make_trainer(job, [])
    make_trainer(prepare(arguments(model=str(folder))), [])


def test_a_method_that_loses_the_positions_is_refused(arguments, tmp_path):
    config = tmp_path / "prefix.json"
    config.write_text(json.dumps({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 2}))
    job = prepare(arguments(adapter_config=str(config), packing=True, max_length=200, r=None, num_prompts=None))
    with pytest.raises(ExcitorError, match="lets packed examples see each other"):
        make_trainer(job, [])


def test_one_row_is_enough_for_the_check(arguments, data):
    make_trainer(prepare(arguments(data=[f"{data}#2"], eval_rows=1, packing=True)), [])
