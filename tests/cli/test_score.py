import json
import re
import subprocess
import sys

import pytest

from excitor.cli import main


PROBLEM = {
    "question": "Which?",
    "choices": ["wood", "iron"],
    "answer": 1,
    "hint": "",
    "image": None,
    "grade": "grade3",
    "subject": "natural science",
    "split": "test",
}


def write(path, value):
    path.write_text(json.dumps(value))
    return path


@pytest.fixture
def problems(tmp_path):
    return write(tmp_path / "problems.json", {"1": PROBLEM, "2": PROBLEM, "3": PROBLEM | {"split": "val"}})


@pytest.fixture
def coco(tmp_path):
    rows = [{"image_id": 1, "caption": "A dog runs."}, {"image_id": 2, "caption": "A cat."}]
    return write(tmp_path / "results.json", rows), write(tmp_path / "references.json", {"annotations": rows})


def test_captions(command, coco, tmp_path):
    results, references = coco
    result = command("score", "captions", results, "--references", references, "--out", tmp_path / "new" / "out.json")
    assert (result.code, result.err) == (0, "")
    assert "2 captions, 2 references" in result.out
    assert "Bleu_1     1.0000   1.0000 to 1.0000   5 of 5 1-grams" in result.out
    assert "2,000 resamples of the images, seed 0" in result.out
    assert re.search(r"SPICE +not run +ask for it with --java", result.out)

    written = json.loads((tmp_path / "new" / "out.json").read_text())
    assert written["scores"]["ROUGE_L"] == 1
    assert written["intervals"]["ROUGE_L"] == [1, 1]
    assert written["bootstrap"]["over"] == "images"
    assert written["inputs"]["results"]["file"] == "results.json"
    items = [json.loads(line) for line in (tmp_path / "new" / "out.jsonl").read_text().splitlines()]
    assert [item["id"] for item in items] == ["1", "2"]
    assert sum(item["CIDEr"] for item in items) / 2 == pytest.approx(written["scores"]["CIDEr"])


def test_scienceqa(command, problems, tmp_path):
    predictions = write(tmp_path / "p.json", {"outputs": {"1": "The answer is B.", "2": "so?", "3": "A"}})
    out = tmp_path / "out.json"
    result = command("score", "scienceqa", predictions, "--problems", problems, "--split", "test", "--out", out)
    assert (result.code, result.err) == (0, "")
    assert "1/2 correct, 1 failed" in result.out
    assert "1 predictions are for problems of other splits; they are not scored." in result.out

    written = json.loads(out.read_text())
    assert written["columns"]["Avg"] == {"correct": 1, "total": 2, "accuracy": 50, "low": 0, "high": 100}
    assert written["bootstrap"] == {"over": "questions", "resamples": 2000, "seed": 0, "coverage": 0.95}
    assert (written["failed"], written["split"], written["outside_split"]) == (["2"], "test", 1)
    items = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert items == [{"id": "1", "predicted": 1, "answer": 1}, {"id": "2", "predicted": None, "answer": 1}]


def test_mistakes_are_one_message_with_the_file(command, coco, problems, tmp_path):
    results, references = coco
    missing = tmp_path / "missing.json"
    predictions = write(tmp_path / "p.json", {"9": "A"})
    for arguments, message in [
        (("captions", results, "--references", missing), f"{missing} cannot be read: No such file"),
        (("captions", results, "--references", references, "--out", "out.txt"), "--out out.txt must end in .json"),
        (("scienceqa", predictions, "--problems", problems), f"{predictions}: 1 of 1 predictions are for unknown"),
    ]:
        result = command("score", *arguments)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith(f"Error: {message}")
        assert result.err.count("\n") == 1


@pytest.mark.parametrize("name", ["captions", "scienceqa"])
def test_help_shows_an_example(command, name):
    result = command("score", name, "--help")
    assert result.code == 0
    assert f"\n    excitor score {name}" in result.out


def test_scoring_needs_no_torch(coco):
    results, references = coco
    program = """
import sys, excitor_cli
try:
    excitor_cli.main()
finally:
    print("torch" in sys.modules)
"""
    arguments = ["score", "captions", str(results), "--references", str(references)]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


def test_without_a_command_the_help_is_shown(capsys):
    with pytest.raises(SystemExit):
        main(["score"])
    assert "scienceqa" in "".join(capsys.readouterr())
