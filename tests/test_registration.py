import importlib.util
import json
import pickle
import subprocess
import sys
import types
from importlib.metadata import requires, version

import peft
import pytest
from peft import PeftType, get_peft_model
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer

import excitor
from excitor import ExcitorConfig, ExcitorError, ExcitorLayer, ExcitorModel, UnsupportedPeftError, registration
from tiny import make_llama


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
    registration.register(ExcitorConfig, ExcitorModel)
    assert list(PeftType) == before


def test_every_method_of_pefts_that_is_overridden_is_checked() -> None:
    for base, ours in ((BaseTuner, ExcitorModel), (BaseTunerLayer, ExcitorLayer)):
        overridden = {name for name in vars(ours) if callable(getattr(base, name, None)) and not name.startswith("__")}
        assert overridden <= set(registration.HOOKS[base])


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """For a PEFT that the test changes, in which the method is then registered once more, under another name."""
    return monkeypatch


def refusal() -> str:
    """The message of an import, which must name what is installed and what is needed."""
    with pytest.raises(UnsupportedPeftError) as caught:
        registration.register(ExcitorConfig, ExcitorModel, "OTHER")
    assert "OTHER" not in PeftType.__members__
    message = str(caught.value)
    supported = next(need for need in requires("excitor") if need.startswith("peft"))
    assert f"could not register its method with peft {version('peft')}: " in message
    assert message.endswith(f"supports {supported}: pip install '{supported}'.")
    return message


def test_an_enum_that_cannot_be_opened(anew: pytest.MonkeyPatch) -> None:
    anew.setattr(PeftType, "_member_map_", types.MappingProxyType(dict(PeftType._member_map_)))
    anew.setattr(PeftType, "_member_names_", list(PeftType._member_names_))
    assert "does not support item assignment" in refusal()


def test_an_enum_that_looks_members_up_elsewhere(anew: pytest.MonkeyPatch) -> None:
    for name in ("_member_map_", "_value2member_map_"):
        anew.setattr(PeftType, name, dict(getattr(PeftType, name)))
    anew.setattr(PeftType, "_member_names_", list(PeftType._member_names_))
    anew.setattr(registration, "_add_enum_member", lambda name: None)  # as if nothing had come of it
    assert "please add an entry" in refusal()


def test_a_register_function_with_other_arguments(anew: pytest.MonkeyPatch) -> None:
    anew.setattr(registration, "_add_enum_member", lambda name: None)
    anew.setattr(registration, "register_peft_method", lambda spec: None)
    assert "unexpected keyword argument" in refusal()


def test_a_register_function_that_fills_other_tables(anew: pytest.MonkeyPatch) -> None:
    anew.setattr(registration, "_add_enum_member", lambda name: None)
    anew.setattr(registration, "register_peft_method", lambda **_: None)
    assert "left the method out of PEFT's tables" in refusal()


@pytest.mark.parametrize("hook", ["_remap_adapter_state_dict_for_load", "_get_adapter_state_dict"])
def test_a_class_method_of_saving_or_loading_that_is_gone(anew: pytest.MonkeyPatch, hook: str) -> None:
    anew.delattr(BaseTuner, hook)
    assert f"BaseTuner has no {hook}" in refusal()


def test_a_class_method_that_became_a_method_of_the_instance(anew: pytest.MonkeyPatch) -> None:
    anew.setattr(
        BaseTuner,
        "_remap_adapter_state_dict_for_load",
        lambda self, model, config, adapter_name, state_dict: state_dict,
    )
    assert "BaseTuner._remap_adapter_state_dict_for_load is called otherwise" in refusal()


def test_a_hook_with_another_argument(anew: pytest.MonkeyPatch) -> None:
    anew.setattr(BaseTuner, "_check_merge_allowed", lambda self, safe_merge: None)
    assert "BaseTuner._check_merge_allowed is called otherwise (got an unexpected keyword" in refusal()


def test_all_that_changed_is_named_at_once(anew: pytest.MonkeyPatch) -> None:
    anew.delattr(BaseTuner, "_replace_module")
    anew.delattr(BaseTunerLayer, "_move_adapter_to_device_of_base_layer")
    anew.delattr(peft.PeftModel, "_enable_peft_forward_hooks")
    message = refusal()
    for fault in (
        "BaseTuner has no _replace_module",
        "BaseTunerLayer has no _move_adapter_to_device_of_base_layer",
        "PeftModel has no _enable_peft_forward_hooks",
    ):
        assert fault in message


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("peft.utils", "register_peft_method"),
        ("peft.mapping", "PEFT_TYPE_TO_TUNER_MAPPING"),
        ("peft.tuners.tuners_utils", "BaseTuner"),
    ],
)
def test_what_has_moved_is_named_on_import(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    monkeypatch.delattr(sys.modules[module], name)
    spec = importlib.util.spec_from_file_location("excitor.registration_anew", registration.__file__)
    with pytest.raises(UnsupportedPeftError, match=f"could not register .* cannot import name '{name}'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_importing_the_package_ends_in_the_one_message() -> None:
    result = run_python("import peft.utils; del peft.utils.register_peft_method; import excitor")
    expected = f"excitor could not register its method with peft {version('peft')}: "
    assert result.stderr.splitlines()[-1].startswith(f"excitor.errors.UnsupportedPeftError: {expected}")
    assert issubclass(UnsupportedPeftError, ImportError)
    assert issubclass(UnsupportedPeftError, ExcitorError)  # the command line prints the message alone


def test_a_second_import_fails_like_the_first() -> None:
    code = """
import peft.utils
peft.utils.register_peft_method = lambda **_: None
for _ in range(2):
    try:
        import excitor
    except ImportError as error:
        print("left the method out" in str(error))
"""
    assert run_python(code).stdout.split() == ["True", "True"]


def test_importing_the_package_is_enough() -> None:
    assert "True" in run_python("import excitor, peft; print('EXCITOR' in peft.PeftType.__members__)").stdout


def test_without_the_import_peft_names_the_method(tmp_path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "EXCITOR"}))
    result = run_python(f"import peft; peft.PeftConfig.from_pretrained({str(tmp_path)!r})")
    assert result.stderr.strip().splitlines()[-1] == "KeyError: 'EXCITOR'"  # docs/python.md says so


def test_the_card_that_peft_writes_carries_the_tag(tmp_path) -> None:
    get_peft_model(make_llama(), ExcitorConfig()).save_pretrained(tmp_path)
    header = (tmp_path / "README.md").read_text().split("---")[1]
    assert "- excitor" in header


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, excitor_cli, excitor.cli; print({'torch', 'transformers', 'peft'} & set(sys.modules))"
    assert run_python(code).stdout.strip() == "set()"
