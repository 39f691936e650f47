from collections import Counter

import pytest
from datasets import ClassLabel, Dataset

from excitor.errors import ExcitorError
from excitor.evaluate.mmlu.questions import LETTERS, read_topics
from excitor.evaluate.mmlu.topics import CATEGORIES, CATEGORY_OF


def test_the_57_topics_are_in_four_categories():
    assert len(CATEGORY_OF) == sum(len(topics) for topics in CATEGORIES.values()) == 57
    assert Counter(CATEGORY_OF.values()) == {"STEM": 18, "humanities": 13, "social sciences": 12, "other": 14}


def test_a_folder_gives_the_topics_of_a_split(folder):
    topics = read_topics(str(folder), split="test")
    assert [(topic.name, len(topic.examples), len(topic.questions)) for topic in topics] == [
        ("astronomy", 5, 7),
        ("management", 5, 4),
    ]
    assert [topic.category for topic in topics] == ["STEM", "other"]
    assert [topic.name for topic in read_topics(str(folder), split="val")] == ["virology"]
    assert [topic.name for topic in read_topics(str(folder), topics=["management"])] == ["management"]


def test_text_is_taken_as_it_stands(folder):
    (folder / "test" / "astronomy_test.csv").write_text(' Why?,None,0.10,"a,\nb",,D\n')
    question = read_topics(str(folder), topics=["astronomy"])[0].questions[0]
    assert (question.text, question.choices, question.answer) == (" Why?", ("None", "0.10", "a,\nb", ""), "D")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "test/astronomy_test.csv",
            "q,a,b,c,d,A\nq,a,b,c,B\n",
            r"astronomy_test.csv, row 2: expected .* got 5 columns",
        ),
        ("test/astronomy_test.csv", "q,a,b,c,d,e\n", r"astronomy_test.csv, row 1: the answer must be .* got 'e'"),
        ("test/astronomy_test.csv", "q,a,b,c,d,AB\n", r"row 1: the answer must be .* got 'AB'"),
        ("test/astronomy_test.csv", "q,a,b,c,d,A\n  ,a,b,c,d,A\n", r"row 2: the question is empty"),
        ("dev/management_dev.csv", "question,A,B,C,D,answer\n", r"management_dev.csv, row 1: the answer must be"),
        ("test/management_test.csv", "", r"management_test.csv has no rows"),
        (
            "test/management_test.csv",
            'q,a,b,c,d,A\nq,"a,b\n',
            r"management_test.csv, row 2 could not be read: unexpected end of data",
        ),
        ("test/astrology_test.csv", "q,a,b,c,d,A\n", r"MMLU has no topic 'astrology'. Did you mean 'astronomy'"),
    ],
)
def test_a_bad_file_is_named_with_its_row(folder, file, content, message):
    (folder / file).write_text(content)
    with pytest.raises(ExcitorError, match=message):
        read_topics(str(folder))


def test_missing_files_topics_and_splits_are_named(folder):
    with pytest.raises(ExcitorError, match=r"virology_test.csv is missing .*astronomy_test.csv"):
        read_topics(str(folder), topics=["virology"])
    (folder / "dev" / "astronomy_dev.csv").unlink()
    with pytest.raises(ExcitorError, match=r"astronomy_dev.csv is missing"):
        read_topics(str(folder))
    with pytest.raises(ExcitorError, match=r"no topic 'manage'\. Did you mean 'management'"):
        read_topics(str(folder), topics=["manage"])
    with pytest.raises(ExcitorError, match="no split 'dev'"):
        read_topics(str(folder), split="dev")
    (folder / "val" / "virology_val.csv").unlink()
    with pytest.raises(ExcitorError, match=r"has no files \*_val.csv"):
        read_topics(str(folder), split="val")
    with pytest.raises(ExcitorError, match=r"neither a folder with the CSV files of MMLU .* nor a data set"):
        read_topics(str(folder / "nowhere"))


@pytest.fixture
def hub(folder, tmp_path_factory, monkeypatch) -> str:
    """The same questions in the form of the hub's data set."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    copy = tmp_path_factory.mktemp("hub")
    for part, split in (("dev", "test"), ("test", "test"), ("validation", "val")):
        rows = [
            {
                "subject": topic.name,
                "question": question.text,
                "choices": list(question.choices),
                "answer": LETTERS.index(question.answer),
            }
            for topic in read_topics(str(folder), split=split)
            for question in (topic.examples if part == "dev" else topic.questions)
        ]
        data = Dataset.from_list(rows).cast_column("answer", ClassLabel(names=list(LETTERS)))
        (copy / "all").mkdir(exist_ok=True)
        data.to_parquet(str(copy / "all" / f"{part}-00000-of-00001.parquet"))
    (copy / "README.md").write_text(
        "---\nconfigs:\n- config_name: all\n  data_files:\n"
        + "".join(f"  - split: {part}\n    path: all/{part}-*\n" for part in ("dev", "test", "validation"))
        + "---\n"
    )
    return str(copy)


def test_the_hubs_form_gives_the_same_questions(folder, hub):
    assert read_topics(hub) == read_topics(str(folder))
    assert read_topics(hub, topics=["management"]) == read_topics(str(folder), topics=["management"])
    with pytest.raises(ExcitorError, match="virology has no rows"):
        read_topics(hub, topics=["virology"])
