import subprocess
import sys
from dataclasses import fields

import pytest

from excitor.errors import ExcitorError
from excitor.train.arguments import TrainArguments


def test_defaults_with_the_required_three_are_fine():
    TrainArguments(model="m", data=["d"], out="o").check()
    TrainArguments(model="m", data=["d"], out="o", num_prompts=0).check()  # local prompts are left


def test_all_faults_are_reported_together():
    with pytest.raises(ExcitorError) as caught:
        TrainArguments(batch_size=0, learning_rate=-1.0, scheduler="cosin", resume=True, overwrite=True).check()
    message = str(caught.value)
    for part in (
        "--model is missing",
        "--data is missing",
        "--out is missing",
        "--batch-size must be at least 1, got 0",
        "--learning-rate must be greater than 0, got -1.0",
        "--scheduler must be one of cosine, linear, constant_with_warmup, got 'cosin'",
        "--resume continues",
    ):
        assert part in message
    assert len(message.splitlines()) == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"warmup_ratio": 1.0}, "--warmup-ratio must be at least 0 and less than 1"),
        ({"epochs": float("nan")}, "--epochs must be greater than 0, got nan"),
        ({"weight_decay": float("inf")}, "--weight-decay must be at least 0, got inf"),
        ({"precision": "fp8"}, "--precision must be one of auto, fp32, bf16, fp16"),
        ({"adapter_config": "lora.json"}, "--adapter-config names another method.* give one"),
        ({"num_prompts": 0, "num_local_prompts": 0}, "--num-prompts must be at least 1, got 0"),
        ({"preset": "best"}, "--preset must be one of default, paper, coco-caption, scienceqa, got 'best'"),
        ({"logging_steps": 3}, "--save-steps .100. must be a multiple of --logging-steps .3."),
    ],
)
def test_each_fault_names_its_flag(change, message):
    with pytest.raises(ExcitorError, match=message):
        TrainArguments(**({"model": "m", "data": ["d"], "out": "o"} | change)).check()


def test_out_must_not_be_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExcitorError, match="is a file"):
        TrainArguments(model="m", data=["d"], out=str(tmp_path / "file")).check()


def test_method_has_only_what_was_given():
    assert TrainArguments(r=4, gate_init_std=0.0).method() == {"r": 4, "gate_init_std": 0.0}


def test_every_field_is_described():
    assert all(field.metadata["help"].endswith(".") for field in fields(TrainArguments))


def test_arguments_need_no_torch():
    code = "import sys, excitor_cli, excitor.train.arguments; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
