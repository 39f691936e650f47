import pickle
import subprocess
import sys

import peft
import pytest
from peft import PeftType

import excitor
from excitor import registration


def test_the_method_is_a_member_like_any_other() -> None:
    member = PeftType.EXCITOR
    assert PeftType("EXCITOR") is member
    assert member in list(PeftType)
    assert member == "EXCITOR"
    assert (member.name, member.value, str(member)) == ("EXCITOR", "EXCITOR", "PeftType.EXCITOR")
    assert pickle.loads(pickle.dumps(member)) is member


def test_peft_knows_config_tuner_and_prefix() -> None:
    assert peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING["EXCITOR"] is excitor.ExcitorConfig
    assert peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING["EXCITOR"] is excitor.ExcitorModel
    assert peft.mapping.PEFT_TYPE_TO_PREFIX_MAPPING["EXCITOR"] == "excitor_"


def test_registering_again_changes_nothing() -> None:
    before = list(PeftType)
    registration.register(excitor.ExcitorConfig, excitor.ExcitorModel)
    assert list(PeftType) == before


def test_a_peft_that_changed_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "NAME", "OTHER")
    monkeypatch.setattr(registration, "_add_enum_member", lambda: None)  # as if the enum could not be opened
    with pytest.raises(ImportError, match=r"could not register its method with peft .* supports peft >="):
        registration.register(excitor.ExcitorConfig, excitor.ExcitorModel)


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_is_enough() -> None:
    assert "True" in run_python("import excitor, peft; print('EXCITOR' in peft.PeftType.__members__)")


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, excitor_cli, excitor.cli; print({'torch', 'transformers', 'peft'} & set(sys.modules))"
    assert run_python(code).strip() == "set()"
