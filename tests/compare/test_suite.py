import json
from pathlib import Path

import pytest

from excitor.compare.arguments import CompareArguments
from excitor.compare.plan import Plan, make_plan
from excitor.compare.run import execute
from excitor.compare.suite import SUITES, resolve
from excitor.compare.tuning import choose_rates
from excitor.errors import ExcitorError
from tiny import make_llama, make_tokenizer


ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.parent.name for path in (ROOT / SUITES).glob("*/suite.yaml"))


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def deep_base(tmp_path_factory) -> str:
    """A random LLaMA as deep as the paper's adapter."""
    folder = str(tmp_path_factory.mktemp("deep"))
    make_llama(num_hidden_layers=30, head_dim=8, max_position_embeddings=1024).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def files(tmp_path) -> Path:
    """What the suites on large models read, in little."""
    sums = [{"prompt": f"Question: {n} + 1? Answer:", "completion": f" The answer is: {n + 1}"} for n in range(12)]
    (tmp_path / "metamath.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps({"prompt": "Question: 1 + 1? Answer:", "completion": " #### 2"}))
    (tmp_path / "wiki.jsonl").write_text('{"text": "Once there was a cat."}\n')
    alpaca = [{"instruction": f"Say {n}", "input": "", "output": str(n)} for n in range(12)]
    (tmp_path / "alpaca.jsonl").write_text("".join(json.dumps(row) + "\n" for row in alpaca))
    for split in ("dev", "test"):
        folder = tmp_path / "mmlu" / split
        folder.mkdir(parents=True)
        (folder / f"astronomy_{split}.csv").write_text("Which star?,Sun,Moon,Mars,Io,A\n" * 5)
    return tmp_path


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_suites_name_what_exists(name, tmp_path):
    suite, experiments = resolve(CompareArguments(suite=name, files=str(tmp_path)))
    assert len(suite.seeds) >= 5
    assert suite.subject in {one.name for one in experiments}
    assert len({one.name for one in experiments}) == len(experiments) >= 14


@pytest.mark.parametrize(
    ("name", "changes", "measure"),
    [
        ("llama3-metamath", {}, "number match"),
        ("llama7b-alpaca", {"data": ["alpaca.jsonl"], "mmlu": "mmlu"}, "mmlu"),
    ],
)
def test_suites_on_large_models_run_on_a_small_one_of_their_class(name, changes, measure, deep_base, files, tmp_path):
    placed = {
        key: [str(files / one) for one in value] if isinstance(value, list) else str(files / value)
        for key, value in changes.items()
    }
    given = CompareArguments(
        suite=name, files=str(files), model=deep_base, steps=1, batch_size=2, eval_rows=4, points=1, **placed
    )
    given.methods = [resolve(given)[0].subject, "lora/q-v"]
    plan = make_plan(given)
    own = [run for run in plan.tuning_runs() if run.experiment.name == plan.suite.subject][:1]
    tuned = choose_rates(plan, [execute(run, tmp_path) for run in own])
    rate = tuned[plan.suite.subject]["learning_rate"]
    run = next(run for run in plan.runs({plan.suite.subject: rate}) if run.seed == 0)
    result = execute(run, tmp_path)
    assert 0 <= result["measures"][measure] <= 1
    assert result["run_info"]["train_config"]["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning_seed": 1}, "tuning_seed 1 is among the seeds that are reported"),
        ({"rates": []}, "seeds and rates must not be empty"),
        ({"ranked": ["joy"]}, "there is no measure 'joy'"),
        ({"train": {"learning_rate": 1.0}}, "train: learning_rate cannot be set"),
        ({"train": {"kl_weight": 1.0}}, "train: kl_weight belongs to an experiment"),
        ({"train": {"steps": "many"}}, "train: steps must be a whole number"),
        ({"match": "params"}, "match: params needs a target"),
        ({"match": "watts"}, "match must be one of none, params, flops, time, got 'watts'"),
        ({"match": "time", "target": "lora/q-v", "train": {"load_in_4bit": True}}, "cannot be loaded in 4 or 8 bits"),
        ({"strengths": [0.5, 1]}, "strengths must be above 0 and other than 1"),
        ({"strengths": [0.5, 0.5]}, "a strength is given twice"),
        ({"model": "x"}, "a model needs data"),
        ({"methods": ["lora"]}, "The subject 'excitor/default' is not among the methods"),
        ({"sedes": [0]}, "unknown key 'sedes'; did you mean 'seeds'"),
        ({"data": ["{files}/rows.json"], "retain": ["x"], "model": "m"}, "say with --files which folder"),
    ],
)
def test_a_suite_that_cannot_be_run_is_refused(suite, changes, message):
    with pytest.raises(ExcitorError, match=message):
        resolve(CompareArguments(suite=suite(**changes)))


def test_a_suite_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(ExcitorError, match=r"There is no suite 'nothing'.*Here are: ablation, "):
        resolve(CompareArguments(suite="nothing"))


def test_nothing_to_compare_on_is_said():
    with pytest.raises(ExcitorError, match="give --suite, or --model, --data and --retain"):
        resolve(CompareArguments())


@pytest.mark.parametrize("rate", ["nan", "inf", "fast", "1e-3,"])
def test_rates_are_finite_numbers(suite, rate):
    with pytest.raises(ExcitorError, match="--rates must be numbers"):
        resolve(CompareArguments(suite=suite(), rates=[rate]))


def test_a_match_can_be_taken_back(suite):
    folder = suite(match="params", target="excitor/default")
    found, _ = resolve(CompareArguments(suite=folder, match="none"))
    assert (found.match, found.target) == ("none", "")
    with pytest.raises(ExcitorError, match="target needs match"):
        resolve(CompareArguments(suite=folder, match="none", target="lora/q-v"))


def test_flags_win_over_the_suite(suite):
    given = CompareArguments(
        suite=suite(), steps=9, seeds=2, rates=["1e-2, 2e-2", "3e-2"], methods=["lora/q-v"], points=2
    )
    found, experiments = resolve(given)
    assert (found.training["steps"], found.seeds, found.rates, found.points) == (9, [0, 1], [0.01, 0.02, 0.03], 2)
    assert [one.name for one in experiments] == ["lora/q-v"]
    plan = Plan(found, experiments, {"lora/q-v": 1}, given.command)
    folder = Path(str(given.suite))
    plan.write(folder)
    assert Plan.read(folder) == plan
