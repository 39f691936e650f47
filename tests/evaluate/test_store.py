import pytest

from excitor.errors import ExcitorError
from excitor.evaluate.store import read_items, write_items


DEFINITION = {"options": {"retain": ["a.txt"]}, "subjects": {"base": {}, "mine": {}}}
ITEMS = {"base": [{"id": "a:0", "loss": 1.0}], "mine": [{"id": "a:0", "loss": 0.5}]}


def test_what_was_written_is_read_back(tmp_path):
    assert read_items(tmp_path, "forgetting", DEFINITION) is None
    write_items(tmp_path, "forgetting", DEFINITION, ITEMS)
    assert read_items(tmp_path, "forgetting", DEFINITION) == ITEMS


def test_results_of_another_definition_are_an_error(tmp_path):
    write_items(tmp_path, "forgetting", DEFINITION, ITEMS)
    with pytest.raises(ExcitorError, match=r"forgetting\.jsonl holds the results of another .*\(options differ"):
        read_items(tmp_path, "forgetting", DEFINITION | {"options": {"retain": ["b.txt"]}})


def test_a_write_that_was_cut_off_counts_as_not_done(tmp_path):
    write_items(tmp_path, "forgetting", DEFINITION, ITEMS)
    broken = {"base": [{"id": "a:0", "loss": {1.0}}]}  # JSON has no sets
    with pytest.raises(TypeError):
        write_items(tmp_path, "forgetting", DEFINITION | {"precision": "fp32"}, broken)
    assert read_items(tmp_path, "forgetting", DEFINITION) is None
