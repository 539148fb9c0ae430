"""A chat endpoint of OpenAI's form, asked over HTTP with time limits and retries. The key is sent and kept nowhere."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from ..errors import InvalidArgumentError, RunError

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT = 60.0  # seconds
Message = dict[str, str]


class _Unmoved(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key is for the address that was given."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``url`` is what stands before ``/chat/completions``, such as https://api.openai.com/v1, or all of it.

    ``key`` goes into the Authorization header; None sends none. ``timeout`` is in seconds per attempt; a request is
    made at most ``attempts`` times, waiting twice as long from time to time, or as the server says (Retry-After).
    """

    url: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    attempts: int = 6
    first_wait: float = 1.0
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InvalidArgumentError(f"--judge {self.url!r} is no address: write http(s)://HOST/v1")

    @property
    def address(self) -> str:
        url = self.url.rstrip("/")
        return url if url.endswith("/chat/completions") else f"{url}/chat/completions"

    def ask(self, model: str, messages: list[Message], max_tokens: int) -> str:
        """The text of the answer, at temperature 0.

        Raises:
            RunError: the endpoint refuses the request, cannot be reached, or answers in another form.
        """
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
        for attempt in range(1, self.attempts + 1):
            try:
                return self._content(self._post(body))
            except urllib.error.HTTPError as error:
                if error.code not in RETRIED or attempt == self.attempts:
                    raise RunError(
                        f"{self.address} answers {error.code} ({self._said(error)}): {_advice(error)}"
                    ) from None
                wait = _retry_after(error)
            except (OSError, HTTPException) as error:  # not reached, cut off, or out of time
                if attempt == self.attempts:
                    reason = getattr(error, "reason", None) or error or type(error).__name__
                    raise RunError(
                        f"{self.address} could not be asked ({reason}), {attempt} times: what was answered is kept; "
                        "check the address and run the same command again"
                    ) from None
                wait = None
            self.sleep(min(wait if wait is not None else self.first_wait * 2 ** (attempt - 1), LONGEST_WAIT))
        raise AssertionError("attempts is at least 1")

    def _post(self, body: dict[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.address, json.dumps(body).encode(), headers)
        with urllib.request.build_opener(_Unmoved).open(request, timeout=self.timeout) as response:
            found: bytes = response.read()
        return found

    def _content(self, data: bytes) -> str:
        try:
            found = json.loads(data)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            raise RunError(f"{self.address} answers in another form than chat completions: check the address") from None
        return found if isinstance(found, str) else ""

    def _said(self, error: urllib.error.HTTPError) -> str:
        """What a refusal says, without the key where it repeats that."""
        try:
            text = error.read(2000).decode(errors="replace")
        except OSError:
            text = ""
        if self.key:
            text = text.replace(self.key, "KEY")
        return " ".join(text.split())[:200] or str(error.reason)


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    try:
        return max(float(error.headers.get("Retry-After", "")), 0.0)
    except ValueError:
        return None


def _advice(error: urllib.error.HTTPError) -> str:
    if error.code in {401, 403}:
        return "name the variable that holds the key, --judge-key VARIABLE"
    if error.code == 404:
        return "check the address and --judge-model"
    if 300 <= error.code < 400:
        return "it moved elsewhere; give the address it moved to"
    return "what was answered is kept; run the same command again"
