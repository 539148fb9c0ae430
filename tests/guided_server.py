"""A server of this process that answers as `genarm serve` does, from a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CARD = {
    "id": "base+art+risk",
    "max_model_len": 64,
    "genarm": {"weights": {"art": 1.0, "risk": 0.5}, "beta": 0.5, "base_weight": 1.0},
}
KEY = "secret"
Script = Callable[[dict[str, Any]], Iterable[dict[str, Any]] | tuple[int, Any]]


class GuidedServer:
    """``asked`` are the paths and bodies it was sent; ``left`` counts the clients that went before their answer's end.

    script: of a body, the choices that are streamed, or a status and what comes with it.
    """

    def __init__(self, script: Script, card: dict[str, Any] = CARD) -> None:
        self.script, self.card = script, card
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.left = 0
        self.address = ""

    @contextmanager
    def running(self) -> Iterator[GuidedServer]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def _handler(told: GuidedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers["Authorization"] == f"Bearer {KEY}":
                self.reply(200, {"object": "list", "data": [told.card]})
            else:
                self.reply(401, {"error": "Unauthorized"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.asked.append((self.path, body))
            found = told.script(body)
            if isinstance(found, tuple):
                self.reply(*found)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            try:
                for choice in found:
                    self.event(json.dumps(choice if "error" in choice else {"choices": [choice]}))
                self.event("[DONE]")
            except OSError:
                told.left += 1

        def event(self, text: str) -> None:
            self.wfile.write(f"data: {text}\n\n".encode())
            self.wfile.flush()

        def reply(self, status: int, found: Any) -> None:
            content = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def chunk(text: str, tokens: Sequence[str], values: Sequence[float | None] = (), reason: str | None = None) -> Any:
    """A choice of a streamed completion: new text, the tokens that were drawn, and log π of the base and both reward
    models, the same for every token."""
    columns = zip(("base", "art", "risk"), values or (-1.0, -2.0, -3.0), strict=True)
    told = {name: [value] * len(tokens) for name, value in columns}
    return {
        "index": 0,
        "text": text,
        "logprobs": {"tokens": list(tokens), "model_logprobs": told},
        "finish_reason": reason,
        "stop_reason": None,
    }
