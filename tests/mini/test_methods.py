import pytest
import torch
from peft import PeftConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from excitor.errors import ExcitorError
from excitor.mini import BASE_DIR
from excitor.mini.methods import load_methods


PARAMETERS = {
    "excitor": 42_264,
    "excitor-kl": 42_264,
    "excitor-paper": 29_976,
    "excitor-table": 29_976,
    "full": 884_736,
    "lora-k": 9_216,
    "lora-qv": 21_504,
}


def test_every_method_fits_the_base():
    parameters = {}
    for method in load_methods():
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(BASE_DIR))
            adapted = get_peft_model(base, PeftConfig.from_peft_type(**method.adapter))
        parameters[method.name] = adapted.get_nb_trainable_parameters()[0]
    assert parameters == PARAMETERS


def test_methods_come_once_and_in_the_order_asked_for():
    assert [method.name for method in load_methods(["lora-k", "excitor", "lora-k"])] == ["lora-k", "excitor"]


def test_an_unknown_method_is_named():
    with pytest.raises(ExcitorError, match="no method 'lora'; the methods are excitor, "):
        load_methods(["lora"])
