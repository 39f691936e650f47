import pytest

from excitor.errors import ExcitorError
from excitor.evaluate.store import Finished, Measured, read_items, write_items


DEFINITION = {"options": {"retain": ["a.txt"]}, "subjects": {"base": {}, "mine": {}}}
MEASURED = Measured("2026-01-01T00:00:00+00:00", 1.5, {"versions": {"excitor": "0.1.0"}})
FINISHED = Finished({"base": [{"id": "a:0", "loss": 1.0}], "mine": [{"id": "a:0", "loss": 0.5}]}, MEASURED)


def test_what_was_written_is_read_back(tmp_path):
    assert read_items(tmp_path, "forgetting", DEFINITION) is None
    write_items(tmp_path, "forgetting", DEFINITION, FINISHED)
    assert read_items(tmp_path, "forgetting", DEFINITION) == FINISHED


def test_results_of_another_definition_are_an_error(tmp_path):
    write_items(tmp_path, "forgetting", DEFINITION, FINISHED)
    with pytest.raises(ExcitorError, match=r"forgetting\.jsonl holds the results of another .*\(options differ"):
        read_items(tmp_path, "forgetting", DEFINITION | {"options": {"retain": ["b.txt"]}})


def test_a_write_that_was_cut_off_counts_as_not_done(tmp_path):
    write_items(tmp_path, "forgetting", DEFINITION, FINISHED)
    broken = Finished({"base": [{"id": "a:0", "loss": {1.0}}]}, MEASURED)  # JSON has no sets
    with pytest.raises(TypeError):
        write_items(tmp_path, "forgetting", DEFINITION | {"precision": "fp32"}, broken)
    assert read_items(tmp_path, "forgetting", DEFINITION) is None
