import pytest

from excitor.errors import ExcitorError
from excitor.evaluate.arguments import EvalArguments


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "There is nothing to measure: give --adapter or --model"),
        ({"model": "m"}, "nothing to measure --model by"),
        ({"model": "m", "retain": ["a.txt"], "max_forgetting": 0.1}, "--model alone has none: give --base"),
        ({"adapter": ["a"], "min_gain": 0.1}, "--min-gain needs --data"),
        ({"adapter": ["a"], "max_mmlu_drop": 0.5}, "--max-mmlu-drop needs --mmlu"),
        ({"adapter": ["a"], "max_kl": float("nan")}, "--max-kl must be a number"),
        ({"adapter": ["a"], "max_kl": -0.1}, "--max-kl must be at least 0"),
        ({"adapter": ["a"], "replies": True}, "--replies needs --data"),
        ({"adapter": ["a"], "batch_size": 0}, "--batch-size must be at least 1"),
        ({"adapter": ["a"], "max_length": 1}, "--max-length must be at least 2"),
        ({"adapter": ["a"], "precision": "fp8"}, "--precision must be one of auto"),
        ({"adapter": ["a"], "mmlu_topics": ["law"]}, "--mmlu-topics needs --mmlu"),
        ({"adapter": ["a"], "task_chat": True}, "--task-chat needs --tasks"),
        ({"adapter": ["a"], "data": ["d"], "max_new_tokens": 9}, "--max-new-tokens needs --replies"),
        ({"adapter": ["a"], "out": __file__}, "is a file; it must be a folder"),
    ],
)
def test_what_makes_no_sense_is_named(given, message):
    with pytest.raises(ExcitorError, match=message):
        EvalArguments(**given).check()


def test_what_makes_sense_passes():
    EvalArguments(adapter=["a"], max_forgetting=0.1).check()
    EvalArguments(model="m", base="b").check()
    EvalArguments(model="m", retain=["a.txt"]).check()


def test_the_command_says_the_same():
    arguments = EvalArguments(adapter=["a b", "c"], data=["d"], replies=True, max_forgetting=0.02, seed=3)
    assert arguments.command == (
        "excitor eval --adapter 'a b' --adapter c --data d --replies --seed 3 --max-forgetting 0.02"
    )
