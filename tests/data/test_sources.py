from pathlib import Path

import datasets
import pytest

from data.rows import ALPACA, MESSAGES, PAIR, write
from excitor.data import load_examples
from excitor.errors import ExcitorError


REAL = Path(__file__).parents[3] / "shared" / "data" / "alpaca"


def numbered(count):
    return [ALPACA | {"instruction": str(number)} for number in range(count)]


def questions(examples):
    return [messages[0]["content"].split("\n")[0] for messages in examples["messages"]]


def test_a_limit_takes_the_first_rows(tmp_path):
    path = write(tmp_path / "rows.jsonl", numbered(5))
    assert questions(load_examples([f"{path}#2"])) == ["0", "1"]
    assert len(load_examples([f"{path}#99"])) == 5


def test_a_file_with_the_mark_in_its_name_wins(tmp_path):
    write(tmp_path / "rows.jsonl", numbered(5))
    path = write(tmp_path / "rows.jsonl#2", numbered(3))
    with pytest.raises(ExcitorError, match="unknown kind of file"):  # it is this file that was opened
        load_examples([path])
    assert len(load_examples([write(tmp_path / "c#3.jsonl", numbered(4))])) == 4


def test_sources_of_different_forms_mix_in_order(tmp_path):
    first = write(tmp_path / "a.jsonl", [ALPACA | {"id": 7, "lang": "en"}])
    second = write(tmp_path / "b.csv", [PAIR])
    examples = load_examples([first, second, f"{first}#1"])
    assert examples["source"][:] == [first, second, first]
    assert [messages is None for messages in examples["messages"]] == [False, True, False]
    assert examples.info.description.splitlines()[:2] == [
        f"{first}: 1 rows, alpaca; ignored columns: id, lang",
        f"{second}: 1 rows, prompt/completion",
    ]


def test_a_folder_of_files_is_read_in_order_with_one_limit(tmp_path):
    write(tmp_path / "b.jsonl", numbered(3))
    write(tmp_path / "a.json.gz", numbered(2))
    (tmp_path / "notes.md").write_text("not data")
    assert questions(load_examples([str(tmp_path)])) == ["0", "1", "0", "1", "2"]
    assert questions(load_examples([f"{tmp_path}#3"])) == ["0", "1", "0"]


def test_a_saved_data_set(tmp_path):
    saved = datasets.Dataset.from_list([MESSAGES, MESSAGES])
    saved.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=saved).save_to_disk(str(tmp_path / "splits"))
    datasets.DatasetDict(test=saved).save_to_disk(str(tmp_path / "no_train"))
    assert load_examples([f"{tmp_path / 'one'}#1"])["messages"][:] == [MESSAGES["messages"]]
    assert len(load_examples([str(tmp_path / "splits")])) == 2
    with pytest.raises(ExcitorError, match="no split 'train'; name the folder of one split: test"):
        load_examples([str(tmp_path / "no_train")])


def test_a_hub_id_is_loaded_by_datasets(monkeypatch):
    def load(name, split):
        assert (name, split) == ("someone/rows", "train")
        return datasets.Dataset.from_list(numbered(4))

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert questions(load_examples(["someone/rows#3"])) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nobody/nothing", "neither a local file or folder nor a data set that could be loaded from the hub"),
        ("{folder}/row.jsonl", "there is no file .*row.jsonl; did you mean .*rows.jsonl?"),
        ("{folder}/rows.jsonl#many", "after '#' there must be a number of rows of at least 1, got 'many'"),
        ("{folder}/rows.jsonl#0", "at least 1, got '0'"),
        ("{folder}/empty", "holds neither a saved data set nor a file of .json"),
    ],
)
def test_missing_sources(tmp_path, source, message):
    write(tmp_path / "rows.jsonl", numbered(1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExcitorError, match=message):
        load_examples([source.format(folder=tmp_path)])


def test_no_source_at_all():
    with pytest.raises(ExcitorError, match="no data given"):
        load_examples([])


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data files are not here")
def test_real_alpaca_and_a_file_of_another_schema():
    examples = load_examples([str(REAL / "alpaca_random_9229.json.gz")])
    assert len(examples) == 9229
    with pytest.raises(ExcitorError, match=r"instances, is_classification.*The nearest is alpaca.*lacks output"):
        load_examples([str(REAL / "seed_tasks.jsonl")])
