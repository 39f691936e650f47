import threading

import pytest

from excitor.errors import ExcitorError
from excitor.evaluate import endpoint as module
from excitor.evaluate.endpoint import Completion, Endpoint
from fake_endpoint import FakeEndpoint, serving


MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """The pauses that would have been made."""
    made: list[float] = []
    monkeypatch.setattr(module.time, "sleep", made.append)
    return made


def test_a_request_holds_model_messages_parameters_and_key():
    with serving(FakeEndpoint(lambda request: "Hello.")) as server:
        endpoint = Endpoint(server.url + "/", "judge-1", "secret", {"temperature": 0})
        assert endpoint.complete(MESSAGES) == Completion("Hello.", 100, 7)
        assert server.requests == [{"model": "judge-1", "messages": MESSAGES, "temperature": 0}]
        assert server.headers[0]["Authorization"] == "Bearer secret"
        Endpoint(server.url, "judge-1").complete(MESSAGES)
        assert "Authorization" not in server.headers[1]
    assert "secret" not in repr(endpoint)


def test_passing_failures_are_tried_again(pauses):
    failures = [(429, "slow down", {"Retry-After": "7"}), (503, "busy", {}), (500, "oops", {"Retry-After": "9999"})]
    with serving(FakeEndpoint(lambda request: "Hello.", list(failures))) as server:
        assert Endpoint(server.url, "judge").complete(MESSAGES).text == "Hello."
        assert pauses == [7, 2, 60]
        server.failures = list(failures)
        with pytest.raises(ExcitorError, match=r"no answer in 3 attempts.* 500 .*oops.* run the same command again"):
            Endpoint(server.url, "judge", retries=2).complete(MESSAGES)
    assert len(server.requests) == 4 + 3


def test_a_slow_server_is_tried_again(pauses):
    done = threading.Event()
    with serving(FakeEndpoint(lambda request: str(done.wait(20)))) as server:
        with pytest.raises(ExcitorError, match=r"no answer in 2 attempts.* timed out"):
            Endpoint(server.url, "judge", timeout=0.1, retries=1).complete(MESSAGES)
        done.set()
    assert len(server.requests) == 2


def test_refusals_are_final(pauses):
    with serving(FakeEndpoint(lambda request: "", [(401, '{"error": "bad key"}', {})])) as server:
        with pytest.raises(ExcitorError, match=r"refuses the request for model 'judge': 401 .*bad key"):
            Endpoint(server.url, "judge").complete(MESSAGES)
        with pytest.raises(ExcitorError, match="404"):
            Endpoint(server.url.removesuffix("/v1"), "judge").complete(MESSAGES)
    assert not pauses
    with pytest.raises(ExcitorError, match="no answer in 2 attempts"):  # nobody listens there any more
        Endpoint(server.url, "judge", retries=1, timeout=1).complete(MESSAGES)


@pytest.mark.parametrize("body", ["<html>Welcome</html>", {"choices": []}, [1], {"choices": [{"message": None}]}])
def test_an_answer_that_is_no_completion_is_shown(body):
    with (
        serving(FakeEndpoint(lambda request: "", [(200, body, {})])) as server,
        pytest.raises(ExcitorError, match="no chat completion"),
    ):
        Endpoint(server.url, "judge").complete(MESSAGES)


def test_an_empty_reply_and_uncounted_tokens_are_allowed():
    empty = {"choices": [{"message": {"content": None}}], "usage": None}
    with serving(FakeEndpoint(lambda request: "", [(200, empty, {})])) as server:
        assert Endpoint(server.url, "judge").complete(MESSAGES) == Completion("", None, None)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "file:///tmp/x", "http://"])
def test_an_address_that_is_none_is_named(url):
    with pytest.raises(ExcitorError, match="must be an address"):
        Endpoint(url, "judge")
