import json

import pytest
from transformers import LlamaConfig

from excitor.compare.experiments import CATALOGUE, choose, read_experiments
from excitor.errors import ExcitorError
from excitor.train.method import make_method


def write(folder, adapter=None, training=None, name="one"):
    place = folder / "method" / name
    place.mkdir(parents=True, exist_ok=True)
    for file, values in (("adapter_config.json", adapter), ("training_params.json", training)):
        if values is not None:
            (place / file).write_text(values if isinstance(values, str) else json.dumps(values))
    return place


def test_every_method_of_the_catalogue_is_one_of_peft():
    known = read_experiments(CATALOGUE)
    assert {name.partition("/")[0] for name in known} >= {
        *("excitor", "lora", "dora", "rslora", "ia3", "prefix-tuning", "prompt-tuning", "adaption-prompt"),
        *("ln-tuning", "oft", "excitor-lora", "shira", "full", "base"),
    }
    for experiment in known.values():
        resolved = experiment.resolve(LlamaConfig(num_hidden_layers=3))
        assert resolved.adapter is None or make_method(resolved.adapter, experiment.name)
    adaption = known["adaption-prompt/default"].resolve(LlamaConfig(num_hidden_layers=3))
    assert adaption.adapter["adapter_layers"] == 3


def test_a_method_is_a_folder(tmp_path):
    write(tmp_path, {"peft_type": "LORA", "r": 3}, {"kl_weight": 0.5})
    write(tmp_path, training={"untrained": True}, name="two")
    one, two = read_experiments(tmp_path).values()
    assert (one.name, one.adapter["r"], one.train) == ("method/one", 3, {"kl_weight": 0.5})
    assert two.adapter is None


@pytest.mark.parametrize(
    ("adapter", "training", "message"),
    [
        ({"peft_type": "LORA"}, {"steps": 9}, "sets 'steps', which would make the comparison unfair"),
        ({"peft_type": "LORA"}, {"learning_rate": 1.0}, "sets 'learning_rate'"),
        ({"peft_type": "LORA"}, {"untrained": True}, "to stay untrained and has an adapter_config.json"),
        ({"r": 3}, None, "names no peft_type"),
        ("{", None, "could not be read as JSON"),
        ([], None, "must hold a JSON object"),
        (None, {"kl_weight": 1.0}, "has no adapter_config.json. To measure the base write"),
    ],
)
def test_what_would_be_unfair_or_unread_is_refused(tmp_path, adapter, training, message):
    write(tmp_path, adapter, training)
    with pytest.raises(ExcitorError, match=message):
        read_experiments(tmp_path)


def test_a_file_under_another_name_is_refused(tmp_path):
    (write(tmp_path, {"peft_type": "LORA"}) / "training_param.json").write_text("{}")
    with pytest.raises(ExcitorError, match=r"training_param.json is not read"):
        read_experiments(tmp_path)


def test_a_method_alone_is_all_its_variants():
    known = read_experiments(CATALOGUE)
    assert [one.name for one in choose(known, ["lora", "lora/k", "base"])] == [
        *("lora/all-linear", "lora/k", "lora/q-v"),
        "base/untouched",
    ]
    with pytest.raises(ExcitorError, match="There is no method 'lor'; there are adaption-prompt/default"):
        choose(known, ["lor"])
