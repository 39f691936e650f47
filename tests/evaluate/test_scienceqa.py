import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from excitor.errors import ExcitorError
from excitor.evaluate.scienceqa import COLUMNS, LETTERS, build_prompt, build_target, extract_answer, score
from excitor.evaluate.scienceqa_files import read_predictions, read_problems, select_split


DATA = Path(__file__).parents[3] / "shared" / "data" / "scienceqa"


def make_problem(**changes):
    problem = {
        "question": "Which is a metal?",
        "choices": ["wood", "iron", "glass"],
        "answer": 1,
        "hint": "Metals are shiny.",
        "image": None,
        "grade": "grade3",
        "subject": "natural science",
        "split": "test",
        "lecture": "Matter.\nMetals conduct.",
        "solution": "Iron conducts.",
    }
    return problem | changes


PROBLEMS = {
    "1": make_problem(),
    "2": make_problem(image="image.png", hint="", subject="social science", grade="grade7", answer=0),
    "3": make_problem(image="image.png", subject="language science", grade="grade12", choices=["a", "b"]),
    "4": make_problem(hint="", split="val", grade="grade6"),
}

choices = st.integers(2, 5).map(lambda count: list("vwxyz"[:count]))


@given(choices, st.data(), st.text(max_size=30))
def test_extraction_finds_every_form_of_every_letter(choices, data, more):
    index = data.draw(st.integers(0, len(choices) - 1))
    letter = LETTERS[index]
    forms = [
        letter,
        f" {letter}\n",
        f"{letter}. {more}",
        f"{letter}.",
        f"{letter}\n{more}",
        f"The answer is {letter}.",
    ]
    forms += [f"The answer is {letter}", f"LECTURE: so.\nThe answer is {letter}."]
    assert [extract_answer(form, choices) for form in forms] == [index] * len(forms)


@given(choices, st.text())
def test_extraction_names_a_choice_or_nothing(choices, text):
    assert extract_answer(text, choices) in {None, *range(len(choices))}


@given(choices, st.sampled_from(["{}", "{}. x", "The answer is {}."]))
def test_a_letter_without_its_choice_has_failed(choices, form):
    results = [extract_answer(form.format(letter), choices) for letter in LETTERS]
    assert results == [index if index < len(choices) else None for index in range(len(LETTERS))]


@pytest.mark.parametrize("text", ["", "a", "iron", "Answer B", "AB", "Bad. Really", "The answer is Berlin.", "F", "1"])
def test_what_names_no_letter_has_failed(text):
    assert extract_answer(text, ["wood", "iron"]) is None


def test_an_answer_said_more_than_once_has_failed():
    """As in the official code and in LLaVA's, whether or not it is the same one."""
    for second in ("B", "A", "F"):
        assert extract_answer(f"The answer is A. Question: and? The answer is {second}.", ["x", "y"]) is None
    assert extract_answer("A. The answer is B. The answer is B.", ["x", "y"]) == 0


def test_prompt_and_answers():
    problem = make_problem(caption="A picture.")
    prompt = "Question: Which is a metal?\nContext: {}\nOptions: (A) wood (B) iron (C) glass\nAnswer:"
    assert build_prompt(problem) == prompt.format("Metals are shiny.")
    assert build_prompt(problem, caption=True) == prompt.format("Metals are shiny. A picture.")
    assert build_prompt(make_problem(hint="")) == prompt.format("N/A")
    because = "Matter.\\nMetals conduct. Iron conducts."
    assert build_target(problem) == "The answer is B."
    assert build_target(problem, "QCM-ALE") == f"The answer is B. BECAUSE: {because}"
    assert build_target(problem, "QCM-LEA") == f"{because} The answer is B."


@pytest.mark.parametrize("format", ["QCM-A", "QCM-ALE", "QCM-LEA"])
def test_targets_are_understood(format):
    for problem in (make_problem(answer=2), make_problem(answer=2, lecture="", solution="")):
        assert extract_answer(build_target(problem, format), problem["choices"]) == 2
    assert build_target(make_problem(lecture="", solution=""), format) == "The answer is B."


def test_scores_by_hand():
    report = score({"1": "The answer is B.", "2": "no idea", "3": 1, "4": -1}, PROBLEMS)
    counted = {column: (cell["correct"], cell["total"]) for column, cell in report["columns"].items()}
    assert counted == {
        "NAT": (1, 2),
        "SOC": (0, 1),
        "LAN": (1, 1),
        "TXT": (2, 2),  # 1, 3
        "IMG": (1, 2),  # 2, 3
        "NO": (0, 1),  # 4
        "G1-6": (1, 2),
        "G7-12": (1, 2),
        "Avg": (2, 4),
    }
    assert report["columns"]["Avg"]["accuracy"] == 50
    assert report["failed"] == ["2", "4"]
    assert report["expected_if_guessed"] == pytest.approx(100 * (2 + 2 / 3) / 4)
    assert report["predictions"] == {"1": 1, "2": None, "3": 1, "4": None}


def test_a_column_without_questions_has_no_accuracy():
    columns = score({"1": "B"}, {"1": PROBLEMS["1"]})["columns"]
    nothing = dict.fromkeys(("accuracy", "low", "high"))
    assert columns["SOC"] == {"correct": 0, "total": 0} | nothing
    assert columns["Avg"] == {"correct": 1, "total": 1} | nothing | {"accuracy": 100}


def test_intervals_are_over_the_questions_of_a_column():
    many = {str(number): PROBLEMS["1" if number % 4 else "2"] for number in range(400)}
    report = score({pid: int(pid) % 2 for pid in many}, many)
    assert report == score({pid: int(pid) % 2 for pid in many}, many)
    cell = report["columns"]["Avg"]
    half = 1.96 * (cell["accuracy"] / 100 * (1 - cell["accuracy"] / 100) / 400) ** 0.5 * 100
    assert cell["low"] == pytest.approx(cell["accuracy"] - half, abs=1)
    assert cell["high"] == pytest.approx(cell["accuracy"] + half, abs=1)


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ({"1": "A", "2": "A", "3": "A", "9": "A"}, "1 of 4 predictions are for unknown problem ids: 9"),
        ({"1": "A", "2": "A"}, "2 of 4 problems have no prediction: 3, 4"),
        (
            {"1": "A", "2": "A", "3": 2, "4": "A"},
            r"problem 3: 2 is neither .* its 2 choices \(0 to 1; -1: no answer\)",
        ),
        ({"1": -2, "2": "A", "3": "A", "4": "A"}, "problem 1: -2 is neither"),
        ({"1": True, "2": "A", "3": "A", "4": "A"}, "problem 1: True is neither"),
    ],
)
def test_bad_predictions_are_named(predictions, message):
    with pytest.raises(ExcitorError, match=message):
        score(predictions, PROBLEMS)


def write(path, value):
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"1": "A"}, {"1": "A"}),
        ({"outputs": {"1": "A"}}, {"1": "A"}),
        ({"results": {"1": 0}}, {"1": 0}),
        ({"acc": 1.0, "results": {"1": 0}, "outputs": {"1": "B"}}, {"1": 0}),
    ],
)
def test_every_layout_of_predictions_is_read(tmp_path, value, expected):
    assert read_predictions(write(tmp_path / "p.json", value)) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["A"], "expected {"),
        ({}, "holds no predictions"),
        ({"results": []}, "holds no predictions"),
        ({"results": {"7": "A"}}, "problem 7: the prediction is 'A'; expected"),
        ({"outputs": {"7": 0}}, "problem 7: the prediction is '0'; expected"),
        ({"7": None}, "problem 7: the prediction is 'None'; expected"),
    ],
)
def test_other_layouts_of_predictions_are_refused(tmp_path, value, message):
    with pytest.raises(ExcitorError, match=message) as error:
        read_predictions(write(tmp_path / "p.json", value))
    assert "p.json" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 3}, r"'answer' is 3, but there are 3 choices \(0 to 2\)"),
        ({"answer": "B"}, "'answer' is 'B'"),
        ({"choices": ["one"]}, "'choices' must be a list of 2 to 5 texts"),
        ({"subject": "maths"}, "'subject' is 'maths'; expected one of natural science"),
        ({"grade": "grade13"}, "'grade' is 'grade13'"),
        ({"question": " "}, "the question is empty"),
        ({"question": None}, "'question' must be a text, not None"),
        ({"hint": None}, "'hint' must be a text, not None"),
        ({"split": 1}, "'split' must be a text, not 1"),
        ({"image": 3}, "'image' must be the name of a file or null, not 3"),
        ({"choices": ["one", ""]}, "every choice must be a text that is not empty"),
        ({"choices": ["one", 2]}, "every choice must be a text that is not empty"),
    ],
)
def test_bad_problems_are_named(tmp_path, change, message):
    with pytest.raises(ExcitorError, match=f"problems.json, problem 5: {message}"):
        read_problems(write(tmp_path / "problems.json", {"5": make_problem(**change)}))


def test_missing_fields_are_named(tmp_path):
    with pytest.raises(ExcitorError, match="problem 5: the field 'answer' is missing"):
        read_problems(write(tmp_path / "problems.json", {"5": {"question": "?", "choices": ["a", "b"]}}))
    with pytest.raises(ExcitorError, match="expected the official problems"):
        read_problems(write(tmp_path / "problems.json", []))


def test_splits(tmp_path):
    splits = write(tmp_path / "splits.json", {"mini": ["2", 3], "broken": ["1", "x"], "twice": ["1", "2", 1]})
    with pytest.raises(ExcitorError, match="1 ids stand more than once in split 'twice': 1"):
        select_split(PROBLEMS, "twice", splits)
    assert [*select_split(PROBLEMS, None)] == ["1", "2", "3", "4"]
    assert [*select_split(PROBLEMS, "val")] == ["4"]
    assert [*select_split(PROBLEMS, "mini", splits)] == ["2", "3"]
    for asked, message in [
        (("mini",), "no split 'mini'; the problems have: test, val"),
        (("val", splits), "no split 'val'; .*splits.json have: mini, broken"),
        ((None, splits), "--split is missing"),
        (("broken", splits), "1 ids of split 'broken' are unknown problems: x"),
    ]:
        with pytest.raises(ExcitorError, match=message):
            select_split(PROBLEMS, *asked)


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data/scienceqa")
def test_constant_answers_to_the_official_validation_split():
    everything = read_problems(DATA / "problems_trainval.json.gz")
    problems = select_split(everything, "val", DATA / "pid_splits.json")
    assert problems.keys() == select_split(everything, "val").keys()

    letters = Counter(LETTERS[problem["answer"]] for problem in problems.values())
    for letter in LETTERS:
        report = score(dict.fromkeys(problems, letter), problems)
        average = report["columns"]["Avg"]
        assert (average["correct"], average["total"]) == (letters[letter], 4241)
        assert average["accuracy"] == 100 * letters[letter] / 4241
        assert len(report["failed"]) == sum(len(p["choices"]) <= LETTERS.index(letter) for p in problems.values())

    perfect = score({pid: build_target(problem, "QCM-ALE") for pid, problem in problems.items()}, problems)
    totals = [perfect["columns"][column]["total"] for column in COLUMNS]
    assert totals == [2362, 851, 1028, 2095, 2097, 1380, 2817, 1424, 4241]
    assert all(cell["accuracy"] == 100 for cell in perfect["columns"].values())
