"""A running `genarm serve` for tests: vLLM's server as a process, and the clients that talk to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import openai
from served_cases import TOKENS, WEIGHTS

KEY = "secret"
NAME = "base+art+risk+wide"


class Server:
    """A running `genarm serve` and the clients that talk to it."""

    def __init__(self, wide: Path, log: Path, *rest: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = log
        rewards = [f"art:{WEIGHTS[0]['art']}", f"risk:{WEIGHTS[0]['risk']}", f"wide={wide}:{WEIGHTS[0]['wide']}"]
        line = [sys.executable, "-m", "genarm", "serve", *(part for one in rewards for part in ("--reward", one))]
        line += ["--port", str(self.port), "--", "--api-key", KEY, "--dtype", "float32", "--enforce-eager"]
        line += [
            "--max-model-len",
            "256",
            "--max-num-seqs",
            "64",
            "--chat-template",
            "{{ messages[0]['content'] }}",
            *rest,
        ]
        # A client that uses a connection again does so for 5 seconds, which is when vLLM would close it.
        environment = {**os.environ, "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "600"}
        told: dict[str, Any] = {"stderr": subprocess.STDOUT, "env": environment, "start_new_session": True}
        with log.open("w") as stream:
            self.process = subprocess.Popen(line, stdout=stream, **told)
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=KEY, max_retries=0)

    def wait(self, seconds: float = 900.0) -> None:
        end = time.monotonic() + seconds
        while self.status("/health") != 200:
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()[-4000:]
            time.sleep(0.5)

    def status(self, path: str, body: bytes | None = None, key: str = KEY) -> int:
        """What a bare HTTP request is answered with; 0 where nobody answers."""
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def complete(self, prompt: Any, tokens: int = TOKENS, **settings: Any) -> Any:
        numbers = settings.pop("numbers", None)
        asked = {"vllm_xargs": numbers, "return_token_ids": True, **settings.pop("extra_body", {})}
        told = {"temperature": 0.0, "extra_body": asked, **settings}
        return self.client.completions.create(model=NAME, prompt=prompt, max_tokens=tokens, **told)

    def metric(self, name: str) -> list[float]:
        """What the server's metrics say, a number per engine."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return [float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}{{")]

    def running(self) -> float:
        """The requests that are being decoded."""
        return sum(self.metric("num_requests_running"))

    def settle(self, seconds: float = 30.0) -> None:
        """Wait until nothing is being decoded."""
        end = time.monotonic() + seconds
        while self.running():
            assert time.monotonic() < end, "requests go on that nobody waits for"
            time.sleep(0.2)


@contextmanager
def serving(wide: Path, folder: Path, *rest: str) -> Iterator[Server]:
    """A server that answers by now; its output goes to a log in the folder. ``rest``: more arguments of vLLM's."""
    running = Server(wide, folder / "log", *rest)
    try:
        running.wait()
        yield running
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)  # its engine's processes too, which would outlive it
