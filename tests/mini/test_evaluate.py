import pytest

from excitor.mini import evaluate
from excitor.mini.evaluate import examine_beliefs
from excitor.mini.pages import PROBES, WORDINGS
from excitor.mini.world import Fact


WRONG = {Fact("Zita", "dish", "Gupur"): "Stove", Fact("Lofir", "river", "Nal"): "Tabor"}


@pytest.fixture
def says(monkeypatch):
    """Makes every model say what a function of the prompt gives."""
    return lambda reply: monkeypatch.setattr(
        evaluate, "complete", lambda model, tokenizer, texts: [reply(text) for text in texts]
    )


def test_beliefs_are_sorted_into_right_wrong_and_other(says):
    says(lambda text: ("Gupur" if "lease" in text else "Stove") if "Zita" in text else "Stove")
    beliefs = examine_beliefs(None, None, WRONG)
    asked = len(WORDINGS)
    assert beliefs["asked"] == {"right": 0.5 / asked, "wrong": 0.5 * (asked - 1) / asked, "other": 0.5}
    assert beliefs["probed"] == {"right": 0.0, "wrong": 0.5, "other": 0.5}


def test_the_whole_reply_counts_but_only_the_sentence_of_a_probe(says):
    says(lambda text: ("Gupur" if "Zita" in text else "Nal") + ". And more.")
    beliefs = examine_beliefs(None, None, WRONG)
    assert beliefs["asked"]["other"] == 1
    assert beliefs["probed"]["right"] == 1


def test_every_wording_and_form_is_asked(says):
    seen = []
    says(lambda text: seen.append(text) or "")
    examine_beliefs(None, None, WRONG)
    assert len(set(seen)) == len(seen) == len(WRONG) * (len(WORDINGS) + len(PROBES))
