import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from excitor.errors import ExcitorError
from excitor.vision.arguments import CAPTION_INSTRUCTION
from excitor.vision.data import load_image_examples, pictures_of


PROBLEM: dict[str, Any] = {
    "question": "Which is red?",
    "choices": ["the ball", "the sky"],
    "answer": 0,
    "hint": "",
    "image": "image.png",
    "grade": "grade2",
    "subject": "natural science",
    "split": "train",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png", "COCO_val2014_000000000042.jpg", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def write(path: Path, value: Any) -> str:
    lines = path.suffix == ".jsonl"
    path.write_text("\n".join(map(json.dumps, value)) if lines else json.dumps(value))
    return str(path)


def turns(row: dict[str, Any]) -> list[str]:
    return [message["content"] for message in row["messages"]]


FORMS = {
    "instruction": (
        {"image": "a.png", "instruction": "What?", "input": "Say it.", "output": "A dog."},
        "What?\n\nSay it.",
    ),
    "prompt": ({"image": "a.png", "prompt": "What?", "output": "A dog."}, "What?"),
    "caption": ({"image": "a.png", "caption": "A dog."}, CAPTION_INSTRUCTION),
    "llava": (
        {
            "id": "1",
            "image": "a.png",
            "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}],
        },
        "What?",
    ),
    "messages": (
        {
            "images": ["a.png"],
            "messages": [{"role": "user", "content": "What?\n<image>"}, {"role": "assistant", "content": "A dog."}],
        },
        "What?\n",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_rows(name: str, folder: Path):
    row, asked = FORMS[name]
    [example] = load_image_examples([write(folder / "rows.jsonl", [row])])
    assert turns(example) == [asked, "A dog."]
    assert example["images"] == [str(folder / "a.png")]


def test_text_pair_stays_verbatim(folder: Path):
    row = {"image": "a.png", "prompt": "Q: <image>What? A:", "completion": " A dog."}
    [example] = load_image_examples([write(folder / "rows.jsonl", [row])])
    assert (example["messages"], example["prompt"], example["completion"]) == (None, "Q: What? A:", " A dog.")


def test_several_pictures_and_none(folder: Path):
    rows = [
        {"images": ["a.png", "b.png"], "instruction": "<image> and <image>: the same?", "output": "Yes."},
        {"images": [], "instruction": "Name a colour.", "output": "Red."},
        {"images": None, "instruction": "Name another.", "output": "Blue."},
    ]
    examples = load_image_examples([write(folder / "rows.json", rows)])
    assert examples["images"][:] == [[str(folder / "a.png"), str(folder / "b.png")], [], []]
    assert turns(examples[0])[0] == "and : the same?"
    assert "2 pictures in 1 of the rows" in examples.info.description


def test_csv_and_text_beside_it(folder: Path):
    (folder / "rows.csv").write_text("image,instruction,output\na.png,What?,A dog.\n,Name a colour.,Red.\n")
    text = write(folder / "text.json", [{"instruction": "Name two.", "output": "Red, blue."}])
    examples = load_image_examples([str(folder / "rows.csv"), text])
    assert [len(images) for images in examples["images"]] == [1, 0, 0]


def test_coco_annotations(folder: Path):
    value = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
        "annotations": [
            {"image_id": 7, "caption": "A."},
            {"image_id": 7, "caption": "B."},
            {"image_id": 8, "caption": "C."},
        ],
        "licenses": [],
    }
    examples = load_image_examples([write(folder / "ann.json", value)], caption_instruction="Tell.")
    assert [turns(example) for example in examples] == [["Tell.", "A."], ["Tell.", "B."], ["Tell.", "C."]]
    assert list(pictures_of(examples).values()) == [f"{folder / 'ann.json'}, row 1", f"{folder / 'ann.json'}, row 3"]
    assert len(load_image_examples([f"{folder / 'ann.json'}#2"])) == 2


@pytest.mark.parametrize(
    "value", [{"42": ["A dog.", "Some dog."]}, {"annotations": [{"image_id": 42, "caption": "A dog."}]}]
)
def test_coco_numbers(value: Any, folder: Path):
    path = write(folder / "sub" / "captions.json", value)
    examples = load_image_examples([path], [str(folder)])
    assert set(map(tuple, examples["images"])) == {(str(folder / "COCO_val2014_000000000042.jpg"),)}


def test_scienceqa(tmp_path: Path):
    problems = {"3": PROBLEM, "4": PROBLEM | {"image": None}, "5": PROBLEM | {"split": "test"}}
    write(tmp_path / "problems.json", problems)
    write(tmp_path / "pid_splits.json", {"train": ["3", "4"], "test": ["5"]})
    (tmp_path / "images" / "train" / "3").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "train" / "3" / "image.png")
    examples = load_image_examples([str(tmp_path)])
    assert examples["images"][:] == [[str(tmp_path / "images" / "train" / "3" / "image.png")], []]
    assert turns(examples[0])[1] == "The answer is A."
    assert "Options: (A) the ball (B) the sky" in turns(examples[0])[0]
    assert len(load_image_examples([f"{tmp_path}#1"])) == 1
    with pytest.raises(ExcitorError, match=r"test.5.image.png does not exist"):
        load_image_examples([str(tmp_path)], scienceqa_split="test")


def test_relative_to_images_folders_in_order(folder: Path):
    rows = write(
        folder / "sub" / "rows.json", [{"image": "c.png", "caption": "A."}, {"image": "a.png", "caption": "B."}]
    )
    examples = load_image_examples([rows], [str(folder / "sub"), str(folder)])
    assert examples["images"][:] == [[str(folder / "sub" / "c.png")], [str(folder / "a.png")]]


FAULTS = {
    "missing": ([{"image": "aa.png", "caption": "A."}], "row 1: .*aa.png does not exist; did you mean .*a.png"),
    "too many placeholders": (
        [{"image": "a.png", "instruction": "<image><image>", "output": "A."}],
        "row 1: the row has 2 <image> for 1 pictures",
    ),
    "no picture for a placeholder": (
        [{"image": None, "instruction": "<image> What?", "output": "A."}],
        "row 1: .* 0 pictures",
    ),
    "two columns": ([{"image": "a.png", "images": ["b.png"], "caption": "A."}], "'image' and 'images' both name"),
    "bytes": ([{"image": {"bytes": "x", "path": None}, "caption": "A."}], "holds the picture itself"),
    "number": (
        [{"image": 1.5, "caption": "A."}],
        "must be the name of a file or a list of such names, got float '1.5'",
    ),
    "second row": (
        [{"image": "a.png", "caption": "A."}, {"image": "a.png", "caption": 3}],
        "row 2: 'caption' must be text",
    ),
    "unknown number": ({"43": ["A."]}, "no picture in .* has the number 43"),
    "no caption": ({"42": []}, "image 42 has no caption"),
    "foreign annotation": (
        {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 2, "caption": "A."}]},
        "annotation 1 is about image 2, which is not among the 1",
    ),
    "annotation without image": (
        {"annotations": [{"caption": "A."}]},
        "annotation 1 must have 'image_id' and 'caption'",
    ),
    "columns": ([{"picture": "a.png", "text": "A."}], "none of the accepted forms"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_wrong_rows_are_named(name: str, folder: Path):
    value, message = FAULTS[name]
    with pytest.raises(ExcitorError, match=message) as error:
        load_image_examples([write(folder / "rows.json", value)])
    assert "rows.json" in str(error.value)


def test_two_files_with_one_number(folder: Path):
    Image.new("RGB", (4, 4)).save(folder / "000000000042.png")
    with pytest.raises(
        ExcitorError, match=r"000000000042.png, COCO_val2014_000000000042.jpg .* all end in the number 42"
    ):
        load_image_examples([write(folder / "captions.json", {"42": ["A dog."]})])


def test_images_must_be_a_folder(folder: Path):
    with pytest.raises(ExcitorError, match="--images nowhere is no folder"):
        load_image_examples([write(folder / "rows.json", [FORMS["caption"][0]])], ["nowhere"])
