from collections.abc import Callable
from dataclasses import dataclass

import peft
import pytest
import torch

import excitor
from excitor.cli import main
from tiny import make_llama


@dataclass
class Result:
    code: int | str | None
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs the command line in this process."""

    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as leave:
            main([str(argument) for argument in arguments])
        return Result(leave.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def adapter_dir(base_dir: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter on the model of ``base_dir``, with gates so large that answers change."""
    folder = str(tmp_path_factory.mktemp("adapter"))
    torch.manual_seed(0)
    base = make_llama()
    base.name_or_path = base_dir
    model = peft.get_peft_model(base, excitor.ExcitorConfig(r=4, num_prompts=5, top_layers=2, init_weights=False))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate" in name:
                parameter.mul_(8)
    excitor.save_adapter(model, folder)
    return folder


@pytest.fixture(scope="session")
def lora_dir(base_dir: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("lora"))
    model = make_llama()
    model.name_or_path = base_dir
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["k_proj"])).save_pretrained(folder)
    return folder
