import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from excitor.cli.options import options_from
from excitor.errors import ExcitorError
from excitor.option_file import read_options


@dataclass
class Arguments:
    model: str | None = field(default=None, metadata={"help": "Name [of a model]."})
    data: list[str] = field(default_factory=list, metadata={"help": "Files."})
    skip: list[str] = field(default_factory=list, metadata={"help": "Words."})
    learning_rate: float = field(default=0.5, metadata={"help": "Step size."})
    max_steps: int | None = field(default=100, metadata={"help": "Steps; null for all."})
    packing: bool = field(default=False, metadata={"help": "Pack."})
    plot: bool = field(default=True, metadata={"help": "Plot."})


app = typer.Typer(rich_markup_mode=None)


@app.command()
@options_from(Arguments)
def command(arguments: Arguments) -> None:
    """Do it."""
    print(json.dumps(asdict(arguments)))


def run(*arguments: str) -> dict:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_defaults_are_those_of_the_dataclass():
    assert run() == asdict(Arguments())


def test_flags():
    values = run(
        "--model=m",
        "--data=a",
        "--data=b",
        "--learning-rate=1e-3",
        "--max-steps=7",
        "--skip=x",
        "--packing",
        "--no-plot",
    )
    assert Arguments(**values) == Arguments("m", ["a", "b"], ["x"], 1e-3, 7, True, False)


def test_help_shows_every_field_with_its_text():
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    for flag in ("--model", "--data", "--learning-rate", "--max-steps", "--packing", "--no-packing", "--config"):
        assert flag in text
    assert "Name [of a model]." in text
    assert "default: 0.5" in text
    assert "Files. Can be given several times." in text


def test_flags_win_over_yaml_and_yaml_over_defaults(tmp_path):
    path = config(tmp_path, "learning-rate: 0.25\nmax_steps: 3\npacking: true\ndata: [a, b]\nskip: one\n")
    values = run("--config", str(path), "--max-steps", "100", "--no-packing", "--data", "c")
    assert values["learning_rate"] == 0.25
    assert values["max_steps"] == 100  # given, though it is the default
    assert values["packing"] is False
    assert values["data"] == ["c"]
    assert values["skip"] == ["one"]


def test_null_in_yaml_is_a_value(tmp_path):
    assert run("--config", str(config(tmp_path, "max_steps: null\n")))["max_steps"] is None


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("1E5", 1e5), ("2", 2.0), ("0.1", 0.1), ("-1.5e-4", -1.5e-4)]
)
def test_yaml_numbers(tmp_path, text, value):
    read = read_options(config(tmp_path, f"learning_rate: {text}\n"), Arguments, "--config")["learning_rate"]
    assert read == value
    assert type(read) is float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", r"run.yaml, line 1: unknown key 'learning_rat'; did you mean 'learning_rate'\?"),
        ("# a\nzzz: 1", "line 2: unknown key 'zzz'; the keys are model, data"),
        ("max_steps: 1\nmax-steps: 2", "line 2: the key 'max-steps' is given a second time"),
        ("model: a\nmodel: b", "line 2: the key 'model' is given a second time"),
        ("max_steps: 1.5", r"'max_steps' must be a whole number or null, but it is 1.5 \(float\)"),
        ("max_steps: true", r"'max_steps' must be a whole number or null, but it is True \(bool\)"),
        ("learning_rate: fast", r"'learning_rate' must be a number, but it is 'fast' \(str\)"),
        ("learning_rate: false", r"'learning_rate' must be a number, but it is False \(bool\)"),
        ("packing: 1", "'packing' must be true or false"),
        ("learning_rate: null", r"'learning_rate' must be a number, but it is None"),
        ("model: 7", r"'model' must be text or null, but it is 7 \(int\)"),
        ("data: [a, 1]", "'data' must be text or a list of texts, but"),
        ("- a\n- b", "must hold lines like 'model: NAME'"),
        ("just words", "must hold lines like 'model: NAME'"),
        ("", "must hold lines like 'model: NAME'"),
        ("model: [", "is not YAML"),
        ("model: !!python/object:os.x {}", "is not YAML"),
        ("? [a]\n: b", "is not YAML"),
    ],
)
def test_wrong_yaml_is_named(tmp_path, text, message):
    with pytest.raises(ExcitorError, match=message):
        read_options(config(tmp_path, text), Arguments, "--config")


def test_missing_or_unreadable_config(tmp_path):
    with pytest.raises(ExcitorError, match=r"nothing\.yaml cannot be read: No such file"):
        read_options(tmp_path / "nothing.yaml", Arguments, "--config")
    with pytest.raises(ExcitorError, match="cannot be read: Is a directory"):
        read_options(tmp_path, Arguments, "--config")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ExcitorError, match="is not YAML"):
        read_options(tmp_path / "binary.yaml", Arguments, "--config")


text = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]))


@given(
    st.builds(
        Arguments,
        model=st.none() | text,
        data=st.lists(text),
        skip=st.lists(text),
        learning_rate=st.floats(allow_nan=False),
        max_steps=st.none() | st.integers(),
        packing=st.booleans(),
        plot=st.booleans(),
    )
)
def test_what_yaml_writes_is_read_back(tmp_path_factory, arguments):
    import yaml

    path = tmp_path_factory.mktemp("config") / "run.yaml"
    path.write_text(yaml.safe_dump(asdict(arguments), allow_unicode=True), encoding="utf-8")
    assert Arguments(**read_options(path, Arguments, "--config")) == arguments
