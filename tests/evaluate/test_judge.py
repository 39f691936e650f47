import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from excitor.errors import ExcitorError
from excitor.evaluate.endpoint import Endpoint
from excitor.evaluate.judge import Question, cost, judge, preference, table
from excitor.evaluate.judge_files import read_replies
from fake_endpoint import FakeEndpoint, replies_in, serving


def items(*replies: str | None) -> list[dict]:
    prompts = [[{"role": "user", "content": f"Question {number}"}] for number in range(len(replies))]
    return [
        {"id": str(number), "messages": prompt, "answer": "42", "reply": reply}
        for number, (prompt, reply) in enumerate(zip(prompts, replies, strict=True))
    ]


def longer(request: dict) -> str:
    """A judge that likes length, and says so; equal lengths are a tie."""
    first, second = replies_in(request)
    verdict = "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"
    return f"Verdict: A would be rash.\n**Verdict: {verdict}**"


def run(answers: dict[str, list[dict]], server: FakeEndpoint, cache: Path, **settings) -> dict:
    with Progress(disable=True) as progress:
        return judge(answers, Endpoint(server.url, "judge", **settings), cache, progress, workers=3)


@pytest.mark.parametrize(
    ("text", "when_first", "when_second"),
    [
        ("Verdict: A", "subject", "base"),
        ("verdict - B.", "base", "subject"),
        ("Verdict: B\nThat is the verdict a careful reader comes to.", "base", "subject"),
        ("**Verdict:** [[A]]", "subject", "base"),
        ("Verdict: tie", "tie", "tie"),
        ("verdict: a Tie", "tie", "tie"),
        ("My verdict: A? No.\nVerdict: B", "base", "subject"),
        ("Verdict: Both", None, None),
        ("A is better", None, None),
        ("", None, None),
    ],
)
def test_the_last_verdict_counts(text, when_first, when_second):
    assert preference(text, Question("", [], subject_first=True)) == when_first
    assert preference(text, Question("", [], subject_first=False)) == when_second


def test_pairs_are_judged_in_both_orders(tmp_path):
    answers = {
        "base": items("bb", "bbb", "b", "same", None, "bb"),
        "tuned": items("ttt", "t", "t", "same", "t", "tttt"),
    }
    with serving(FakeEndpoint(longer)) as server:
        result = run(answers, server, tmp_path / "judge.jsonl")
    found = result["comparisons"]["tuned"]
    assert {name: count for name, count in found["outcomes"].items() if count} == {
        "won": 2,
        "lost": 1,
        "tie": 1,
        "same reply": 1,
        "not answered": 1,
    }
    assert found["pairs"] == 6
    assert found["win_rate"]["value"] == pytest.approx(100 * 3 / 5)
    assert found["win_rate"]["low"] < 60 < found["win_rate"]["high"]
    asked = {replies_in(request) for request in server.requests}
    assert len(server.requests) == len(asked) == 8
    assert all((second, first) in asked for first, second in asked)
    assert all("Question" in request["messages"][1]["content"] for request in server.requests)
    assert result["tokens"]["total"] == {"requests": 8, "prompt": 800, "completion": 56, "uncounted": 0}
    json.dumps(result, allow_nan=False)


def test_a_judge_that_only_looks_at_the_order_decides_nothing(tmp_path):
    answers = {"base": items("b", "bb"), "tuned": items("t", "tt")}
    with serving(FakeEndpoint(lambda request: "Verdict: A")) as server:
        found = run(answers, server, tmp_path / "judge.jsonl")["comparisons"]["tuned"]
    assert found["outcomes"]["orders disagree"] == 2
    assert found["win_rate"]["value"] == 50


def test_answers_are_kept_and_asked_once(tmp_path):
    cache = tmp_path / "judge.jsonl"
    answers = {"base": items("b", "bb"), "tuned": items("ttt", "ttt"), "other": items("ttt", "t")}
    with serving(FakeEndpoint(longer)) as server:
        first = run(answers, server, cache)
        assert len(server.requests) == 6  # both adapters gave the same first reply
        assert cache.read_text().count("\n") == 6
        cache.write_text(cache.read_text()[:-20])  # the last line was not written to its end
        again = run(answers, server, cache)
        assert len(server.requests) == 7
        assert again["comparisons"] == first["comparisons"]
        assert again["tokens"]["total"] == first["tokens"]["total"]
        assert again["tokens"]["now"]["requests"] == 1
        answers["other"][1]["reply"] = "changed"
        assert run(answers, server, cache)["tokens"]["now"]["requests"] == 2
        assert run(answers, server, cache, parameters={"temperature": 1})["tokens"]["now"]["requests"] == 6


def test_what_was_answered_before_a_failure_is_kept(tmp_path):
    cache = tmp_path / "judge.jsonl"
    answers = {"base": items("b", "bb"), "tuned": items("ttt", "t")}
    with serving(FakeEndpoint(longer)) as server:
        run({name: own[:1] for name, own in answers.items()}, server, cache)
        server.failures = [(401, "no more money", {})] * 2
        with pytest.raises(ExcitorError, match="no more money"):
            run(answers, server, cache)
        server.failures = []
        assert run(answers, server, cache)["tokens"]["now"]["requests"] == 2


def test_missing_verdicts_are_counted_and_do_not_count(tmp_path):
    answers = {"base": items("b", "bb"), "tuned": items("ttt", "t")}
    with serving(FakeEndpoint(lambda request: longer(request) if "Question 0" in str(request) else "Hm.")) as server:
        server.counts_tokens = False
        result = run(answers, server, tmp_path / "judge.jsonl")
        found = result["comparisons"]["tuned"]
        assert found["outcomes"]["no verdict"] == found["outcomes"]["won"] == 1
        assert found["win_rate"] == {"value": 100, "low": None, "high": None}
        assert "not counted by the endpoint for 4" in cost(result)
        console = Console(width=120, record=True, file=StringIO())
        console.print(table(result))
        assert "one pair" in console.export_text()
        with pytest.raises(ExcitorError, match="none of the 1 pairs of 'tuned' could be judged: 1 no verdict"):
            run({name: own[1:] for name, own in answers.items()}, server, tmp_path / "judge.jsonl")
        with pytest.raises(ExcitorError, match="replies of 'base' alone"):
            run({"base": answers["base"]}, server, tmp_path / "judge.jsonl")


def test_files_are_checked_line_by_line(tmp_path):
    replies, cache = tmp_path / "instructions.jsonl", tmp_path / "judge.jsonl"

    def write(*rows: object) -> None:
        replies.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")

    with pytest.raises(ExcitorError, match="excitor eval writes it"):
        read_replies(replies)
    first, second = items("b\u2028b", "c")
    write({"subject": "base"} | first, {"subject": "tuned"} | first)
    assert read_replies(replies)["base"][0]["reply"] == "b\u2028b"
    write({"subject": "base"} | first, {"subject": "tuned"} | second)
    with pytest.raises(ExcitorError, match="the same rows; it holds: base 1, tuned 1"):
        read_replies(replies)
    write({"subject": "base"} | first, {"subject": "tuned"})
    with pytest.raises(ExcitorError, match="line 2: 'answer' is missing"):
        read_replies(replies)
    write([1])
    with pytest.raises(ExcitorError, match="line 1: expected an object"):
        read_replies(replies)
    cache.write_text('{"key": "x"}\n')
    with (
        serving(FakeEndpoint(longer)) as server,
        pytest.raises(ExcitorError, match=r"judge.jsonl, line 1: 'completion_tokens' is missing"),
    ):
        run({"base": items("b"), "tuned": items("t")}, server, cache)
