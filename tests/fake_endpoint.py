"""A server on this machine that speaks just enough of OpenAI's protocol."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any


Reply = tuple[int, Any, dict[str, str]]
"""Status, body (a string is sent as it stands, anything else as JSON) and headers."""


class FakeEndpoint:
    """Answers by ``answer(request)``, after all of ``failures`` have been served; keeps the requests and headers."""

    def __init__(self, answer: Callable[[dict], str], failures: list[Reply] | None = None) -> None:
        self.answer = answer
        self.failures = failures or []
        self.requests: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""
        self.counts_tokens = True
        self._lock = Lock()

    def reply(self, path: str, request: dict, headers: dict[str, str]) -> Reply:
        with self._lock:
            self.requests.append(request)
            self.headers.append(headers)
            if self.failures:
                return self.failures.pop(0)
        if path != "/v1/chat/completions":
            return 404, "no such page", {}
        usage = {"usage": {"prompt_tokens": 100, "completion_tokens": 7}} if self.counts_tokens else {}
        return 200, {"choices": [{"message": {"content": self.answer(request)}}]} | usage, {}


def replies_in(request: dict) -> tuple[str, str]:
    """What stands first and second in a question to the judge."""
    text = request["messages"][-1]["content"]
    found = [re.search(rf"<reply_{letter}>\n(.*?)\n</reply_{letter}>", text, re.DOTALL) for letter in "AB"]
    assert found[0]
    assert found[1]
    return found[0][1], found[1][1]


@contextmanager
def serving(endpoint: FakeEndpoint) -> Iterator[FakeEndpoint]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, body, headers = endpoint.reply(self.path, request, dict(self.headers))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(BrokenPipeError):  # who asked has not waited for it
                self.wfile.write((body if isinstance(body, str) else json.dumps(body)).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
