import json

import pytest

from excitor.errors import ExcitorError
from excitor.mini.methods import load_methods
from excitor.mini.trial import Trial, run_trial


TRIAL = Trial(load_methods(["lora-k"])[0], 0.4, 8, seed=0, learning_rate=1e-3, steps=1)


@pytest.fixture
def no_training(monkeypatch):
    def train(*arguments):
        raise AssertionError("trained")

    monkeypatch.setattr("excitor.train.run.train", train)


def test_a_trial_leaves_one_file_and_is_not_run_again(tmp_path, few_lessons, monkeypatch, request):
    monkeypatch.setattr("excitor.mini.trial.make_lessons", few_lessons)
    (tmp_path / TRIAL.name / "adapter").mkdir(parents=True)  # what an interruption leaves
    (tmp_path / TRIAL.name / "adapter" / "half").touch()
    result = run_trial(TRIAL, tmp_path)
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text()) == result
    measures = result["measures"]
    assert measures["probed right"] + measures["probed wrong"] + measures["probed other"] == pytest.approx(1)
    assert measures["facts"] > 0.9
    assert measures["unseen"] == (measures["unseen facts"] + measures["unseen lists"]) / 2
    assert {"taught rightly", "skills", "forgetting"} < measures.keys()

    request.getfixturevalue("no_training")
    assert run_trial(TRIAL, tmp_path) == result


def test_a_result_of_other_settings_is_refused(tmp_path, no_training):
    changed = TRIAL.settings() | {"base_sha256": "of another base"}
    path = tmp_path / f"{TRIAL.name}.json"
    path.write_text(json.dumps({"settings": changed}))
    with pytest.raises(ExcitorError, match="was made with another base_sha256"):
        run_trial(TRIAL, tmp_path)
