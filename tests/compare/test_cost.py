import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from excitor import ExcitorConfig
from excitor.compare.cost import NEW_TOKENS, decode_speed, saved_for_backward
from tiny import make_llama


ROWS = Dataset.from_dict({"input_ids": [[3, 4, 5, 6, 7, 8], [9, 10, 11]]})


def test_fewer_layers_keep_less_for_the_backward_pass():
    few, all_layers = (
        get_peft_model(make_llama(), ExcitorConfig(r=2, num_prompts=4, top_layers=layers)) for layers in (1, None)
    )
    assert 0 < saved_for_backward(few, ROWS, 2) < saved_for_backward(all_layers, ROWS, 2)


def test_it_is_the_same_each_time_and_changes_nothing():
    model = get_peft_model(make_llama(), LoraConfig(target_modules=["q_proj"], r=2)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert saved_for_backward(model, ROWS, 2) == saved_for_backward(model, ROWS, 2)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_longer_batches_keep_more_and_weights_do_not_count():
    model = get_peft_model(make_llama(), LoraConfig(target_modules=["q_proj"], r=2))
    one, two = (saved_for_backward(model, ROWS, size) for size in (1, 2))
    assert one < two < sum(parameter.numel() * 4 for parameter in model.parameters()) * 4


def test_decoding_is_timed(tokenizer, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("excitor.compare.cost.time.perf_counter", lambda: float(next(clock)))
    assert decode_speed(make_llama(), tokenizer, ROWS) == NEW_TOKENS
