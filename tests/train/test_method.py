import json

import pytest

from excitor import ExcitorConfig, ExcitorError
from excitor.train.arguments import TrainArguments
from excitor.train.method import read_method, resolved_fields


def arguments(**changes) -> TrainArguments:
    return TrainArguments(model="base", data=["rows.jsonl"], out="run", **changes)


def write(tmp_path, values: object) -> str:
    path = tmp_path / "method.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return str(path)


def test_options_become_the_configuration() -> None:
    given = {"r": 4, "num_local_prompts": 2, "separate_values": True, "gate": "layer", "gate_init": 0.5}
    method = read_method(arguments(identity_start=True, **given))
    assert {name: getattr(method, name) for name in given} == given
    assert method.init_weights == "identity"


def test_presets() -> None:
    assert read_method(arguments(preset="paper", top_layers=2)) == ExcitorConfig.paper(
        top_layers=2, task_type="CAUSAL_LM"
    )
    assert read_method(arguments(preset="default")) == ExcitorConfig(task_type="CAUSAL_LM")


def test_what_was_resolved_gives_the_same_method_again() -> None:
    method = read_method(arguments(preset="paper", top_layers=2))
    assert read_method(arguments(**resolved_fields(method))) == method


def test_another_method_of_peft(tmp_path) -> None:
    from peft import LoraConfig

    path = write(tmp_path, {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "inference_mode": True})
    method = read_method(arguments(adapter_config=path))
    assert isinstance(method, LoraConfig)
    assert (method.r, method.target_modules, method.task_type) == (4, {"q_proj"}, "CAUSAL_LM")
    assert not method.inference_mode
    assert resolved_fields(method) == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{", "is not JSON"),
        ([], "names no peft_type"),
        ({"r": 4}, "names no peft_type"),
        ({"peft_type": "LORE"}, "PEFT knows no method 'LORE'"),
        ({"peft_type": "LORA", "rank": 4}, "rank"),
        ({"peft_type": "LORA", "task_type": "SEQ_CLS"}, "task_type is SEQ_CLS, expected CAUSAL_LM"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path, values: object, message: str) -> None:
    with pytest.raises(ExcitorError, match=message):
        read_method(arguments(adapter_config=write(tmp_path, values)))


def test_a_missing_file(tmp_path) -> None:
    with pytest.raises(ExcitorError, match=r"none.json cannot be read: No such file.*Expected a JSON object"):
        read_method(arguments(adapter_config=str(tmp_path / "none.json")))


def test_excitors_options_do_not_go_with_another_method() -> None:
    with pytest.raises(ExcitorError, match="--adapter-config replaces Excitor; leave out --r, --null-prompt"):
        arguments(adapter_config="lora.json", r=4, null_prompt=True).check()
