"""A running `genarm serve`, over HTTP: what it says of itself, and answers as they are written."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from ..errors import GenARMError, InvalidArgumentError, RunError
from ..serving.settings import KEY

CONNECT, SILENCE = 10.0, 300.0  # seconds: to be reached, and between two words of an answer
DATA, DONE = "data: ", "[DONE]"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What a server says of itself.

    name: the model's in requests; ``weights`` and ``beta``: of requests that name none.
    longest: tokens of a prompt and what follows it, at most.
    """

    name: str
    weights: Mapping[str, float]
    beta: float
    longest: int


class Connection:
    """Requests to one server.

    Args:
        address: such as ``http://127.0.0.1:8000``, with or without ``/v1``.
        key: the server's API key, where it has one.

    Raises:
        InvalidArgumentError: the address is none.
    """

    def __init__(self, address: str, key: str | None) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InvalidArgumentError(f"--server {address}: give an address such as http://127.0.0.1:8000")
        self.address = address.rstrip("/").removesuffix("/v1")
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(SILENCE, connect=CONNECT),
        )

    def model(self) -> ServedModel:
        """The guided model that is served.

        Raises:
            RunError: nobody answers, the key is another, or the server is not genarm's.
        """
        try:
            answer = self._client.get(f"{self.address}/v1/models")
        except httpx.TransportError as error:
            raise RunError(
                f"no server answers at {self.address} ({_reason(error)}): start one with genarm serve, or see to the "
                "address"
            ) from error
        if answer.status_code == 401:
            raise RunError(f"the server at {self.address} has another API key: give its own with --api-key")
        try:
            cards = answer.raise_for_status().json()["data"]
            card = next((one for one in cards if KEY in one), None)
            name = cards[0]["id"]
        except (httpx.HTTPStatusError, ValueError, LookupError, TypeError):
            raise RunError(f"what answers at {self.address} has no /v1/models: it is no genarm serve") from None
        if card is None:
            raise RunError(
                f"the server at {self.address} serves {name!r} without reward models that can be weighed: start one "
                "with genarm serve"
            )
        told = card[KEY]
        return ServedModel(card["id"], dict(told["weights"]), told["beta"], card["max_model_len"])

    def has_chat_template(self, model: ServedModel) -> bool:
        """Whether the server answers messages, which a base without a chat template does not."""
        asked = {"model": model.name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        try:
            return self._client.post(f"{self.address}/v1/chat/completions", json=asked).status_code == 200
        except httpx.TransportError as error:
            raise self.lost(error) from error

    def open(self, path: str, body: Mapping[str, Any]) -> StreamedAnswer:
        """Ask for an answer that is streamed."""
        return StreamedAnswer(self, self._client, path, body)

    def lost(self, error: Exception) -> RunError:
        """What to raise where the server no longer answers."""
        return RunError(f"the server at {self.address} stopped answering ({_reason(error)}): see to it, and run again")


class StreamedAnswer:
    """One streamed answer. ``close``, by whichever thread, ends it here and on the server."""

    def __init__(self, connection: Connection, client: httpx.Client, path: str, body: Mapping[str, Any]) -> None:
        self._connection, self._client = connection, client
        self._url, self._body = f"{connection.address}{path}", {**body, "stream": True}
        self._response: httpx.Response | None = None
        self._is_closed = False

    def __enter__(self) -> StreamedAnswer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._is_closed = True
        if self._response is not None:
            self._response.close()

    def choices(self) -> Generator[dict[str, Any]]:
        """The choices of its chunks, as they come.

        Raises:
            InvalidArgumentError: the server refuses the request, for a reason that it gives.
            RunError: the server fails, or is no longer there.
        """
        try:
            with self._client.stream("POST", self._url, json=self._body) as self._response:
                if self._response.status_code != 200:
                    raise _refusal(self._response.status_code, _told(self._response))
                for line in self._response.iter_lines():
                    if self._is_closed:
                        return
                    if line.startswith(DATA) and line != DATA + DONE:
                        chunk = json.loads(line.removeprefix(DATA))
                        if "error" in chunk:
                            error = chunk["error"]
                            raise _refusal(error.get("code") if isinstance(error, dict) else None, chunk)
                        yield from chunk["choices"]
        except (httpx.TransportError, httpx.StreamError) as error:
            if self._is_closed:
                return
            raise self._connection.lost(error) from error


def _told(response: httpx.Response) -> Any:
    response.read()
    try:
        return response.json()
    except ValueError:
        return response.text


def _refusal(status: int | None, told: Any) -> GenARMError:
    """What a request was answered with, before its first word or in place of another: a stream has begun by the time
    that vLLM validates its request."""
    if status in (400, 404, 422):
        return InvalidArgumentError(f"The server says: {_message(told)}")
    return RunError(f"the server failed (status {status}): {_message(told)}")


def _message(told: Any) -> str:
    error = told.get("error", told) if isinstance(told, dict) else told
    message = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(message).split())[:500]


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
