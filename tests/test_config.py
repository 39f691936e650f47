import dataclasses
import json
from pathlib import Path

import peft
import pytest

from excitor import ExcitorConfig, ExcitorError


def test_defaults_start_as_an_identity() -> None:
    config = ExcitorConfig()
    assert (config.num_prompts, config.num_local_prompts) == (30, 2)
    assert (config.gate_init, config.gate_init_std, config.init_weights) == (1.0, 0.0, "identity")


def test_paper_preset_and_its_changes() -> None:
    config = ExcitorConfig.paper()
    assert (config.r, config.num_prompts, config.top_layers, config.gate_init_std) == (16, 30, 30, 0.01)
    assert (config.num_local_prompts, config.gate_init, config.prompt_init_std, config.init_weights) == (0, 0, 1, True)
    assert ExcitorConfig.paper(top_layers=2).top_layers == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", 0),
        ("r", 1.5),
        ("r", True),
        ("num_prompts", -1),
        ("top_layers", 0),
        ("head_dim", 0),
        ("gate_init_std", -0.1),
        ("gate_init_std", float("nan")),
        ("prompt_init_std", float("inf")),
        ("prompt_init_std", "1"),
        ("prompt_init_std", 0),
        ("gate_init", float("inf")),
        ("temperature", 0),
        ("num_local_prompts", -1),
        ("generator", "lstm"),
        ("gate", None),
        ("key_layout", "fused"),
        ("init_weights", "zero"),
        ("init_weights", 1),
    ],
)
def test_bad_values_are_named(field: str, value: object) -> None:
    with pytest.raises(ExcitorError, match=rf"{field} must be .*, got {value!r}"):
        ExcitorConfig(**{field: value})


def test_prompts_may_be_local_alone_but_not_absent() -> None:
    assert ExcitorConfig(num_prompts=0, num_local_prompts=2).num_prompts == 0
    with pytest.raises(ExcitorError, match=r"num_prompts=0 leaves nothing to attend to: .* vision_width"):
        ExcitorConfig(num_prompts=0, num_local_prompts=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate_init": 0.0}, "needs gates that are not zero"),
        ({"gate_init": 1.0, "generator": "mlp"}, "needs separate_values=True"),
    ],
)
def test_a_start_that_could_not_be_left_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ExcitorError, match=message):
        ExcitorConfig(init_weights="identity", **changes)


def test_regular_expression_and_layer_selection_exclude_each_other() -> None:
    with pytest.raises(ExcitorError, match="regular expression"):
        ExcitorConfig(target_modules=".*k_proj", top_layers=2)


def test_round_trip_through_json(tmp_path) -> None:
    config = ExcitorConfig(r=4, target_modules=["k_proj"], exclude_modules=["vision"], task_type="CAUSAL_LM")
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "EXCITOR"
    loaded = peft.PeftConfig.from_pretrained(tmp_path)
    assert type(loaded) is ExcitorConfig
    assert loaded == config


def test_every_own_field_has_a_help_text() -> None:
    inherited = {field.name for field in dataclasses.fields(peft.PeftConfig)}
    for field in dataclasses.fields(ExcitorConfig):
        assert field.name in inherited or field.metadata.get("help"), field.name


def test_the_documentation_shows_every_field() -> None:
    """The table in docs/configuration.md is the metadata of the fields; on a mismatch, paste what is expected."""
    inherited = {field.name for field in dataclasses.fields(peft.PeftConfig)}
    defaults = ExcitorConfig()
    expected = "".join(
        f"| `{field.name}` | `{getattr(defaults, field.name)}` | {field.metadata['help']} |\n"
        for field in dataclasses.fields(ExcitorConfig)
        if field.name not in inherited
    )
    page = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text()
    assert expected in page, expected
