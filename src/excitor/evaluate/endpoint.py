"""Chat completions from any server that speaks OpenAI's protocol."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from excitor.errors import ExcitorError


# Too many requests, too slow, or a server that may be back in a moment.
PASSING = {408, 409, 429, 500, 502, 503, 504, 529}
LONGEST_WAIT = 60.0


@dataclass(frozen=True)
class Completion:
    """A reply, and what it cost where the server says so."""

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True)
class Endpoint:
    """A model behind ``POST {url}/chat/completions``."""

    url: str
    """With its version, as in ``http://127.0.0.1:8000/v1``."""
    model: str
    key: str | None = field(default=None, repr=False)
    """Sent as a bearer token where there is one."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the request, such as ``temperature``."""
    timeout: float = 120.0
    """Seconds a request may take."""
    retries: int = 5
    """Further attempts after a passing failure, with growing pauses or those the server asks for."""

    def __post_init__(self) -> None:
        """Raises ExcitorError if ``url`` is no address."""
        address = urlsplit(self.url)
        if address.scheme not in ("http", "https") or not address.netloc:
            raise ExcitorError(f"the endpoint must be an address such as http://127.0.0.1:8000/v1, not {self.url!r}")

    def complete(self, messages: list[dict[str, str]]) -> Completion:
        """The model's reply.

        Raises:
            ExcitorError: The server refuses the request, cannot be reached or stays busy for all attempts, or its
                answer is no chat completion.
        """
        body = json.dumps({"model": self.model, "messages": messages, **self.parameters}).encode()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", data=body, headers=headers)
        for attempt in range(self.retries + 1):
            pause = 2.0**attempt
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return _parse(response.read(), self.url)
            except urllib.error.HTTPError as error:
                failure = f"{error.code} {error.reason}: {error.read(500).decode(errors='replace').strip()}"
                if error.code not in PASSING:
                    raise ExcitorError(f"{self.url} refuses the request for model {self.model!r}: {failure}") from None
                asked = error.headers.get("Retry-After", "")
                pause = float(asked) if asked.isdecimal() else pause
            except (OSError, http.client.HTTPException) as error:  # unreachable, broken off, too slow
                failure = str(error) or type(error).__name__
            if attempt < self.retries:
                time.sleep(min(pause, LONGEST_WAIT))
        raise ExcitorError(
            f"{self.url} gave no answer in {self.retries + 1} attempts; the last failure was: {failure}. "
            "Replies so far are kept: run the same command again to go on."
        )


def _parse(body: bytes, url: str) -> Completion:
    try:
        answer = json.loads(body)
        text = answer["choices"][0]["message"]["content"] or ""
        usage = answer.get("usage") or {}
        return Completion(str(text), usage.get("prompt_tokens"), usage.get("completion_tokens"))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ExcitorError(
            f"{url} answered something that is no chat completion: {body[:200].decode(errors='replace')!r}. "
            "The address must be that of an OpenAI-compatible API, usually ending in /v1."
        ) from None
