import json

import pytest

from fake_endpoint import FakeEndpoint, serving


@pytest.fixture
def run_dir(tmp_path):
    rows = [
        {"subject": subject, "id": "rows.jsonl:1", "messages": [{"role": "user", "content": "Hi"}], "answer": "Hello."}
        | {"reply": f"{subject}: Hello."}
        for subject in ("base", "tuned")
    ]
    (tmp_path / "instructions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_the_result_is_printed_and_written(command, run_dir, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    with serving(FakeEndpoint(lambda request: "Verdict: tie")) as server:
        asked = ("judge", run_dir, "--endpoint", server.url, "--model", "judge-1", "--key-variable", "JUDGE_KEY")
        first = command(*asked)
        again = command(*asked)
    assert (first.code, again.code) == (0, 0)
    assert len(server.requests) == 2
    assert server.requests[0]["temperature"] == 0
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert "Judged by judge-1" in first.out
    assert "asked now: 2 requests, 200 prompt and 14 completion tokens" in " ".join(first.out.split())
    assert "asked now: 0 requests" in " ".join(again.out.split())
    result = json.loads((run_dir / "judge.json").read_text())
    assert result["comparisons"]["tuned"]["outcomes"]["tie"] == 1
    assert "secret" not in first.out + "".join(path.read_text() for path in run_dir.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--parameters": "{temperature: 0}"}, "is not JSON"),
        ({"--parameters": "[]"}, "must be an object"),
        ({"--endpoint": "localhost:8000"}, "must be an address"),
    ],
)
def test_mistakes_are_told(command, run_dir, changes, message):
    flags = {"--endpoint": "http://127.0.0.1:9/v1", "--model": "x"} | changes
    result = command("judge", run_dir, *(part for flag in flags.items() for part in flag))
    assert result.code == 2
    assert message in result.err


def test_a_folder_without_replies_is_told(command, tmp_path):
    result = command("judge", tmp_path, "--endpoint", "http://127.0.0.1:9/v1", "--model", "x")
    assert result.code == 2
    assert "excitor eval writes it" in result.err
