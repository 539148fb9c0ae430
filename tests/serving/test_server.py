"""`genarm serve` started for real: vLLM's server over HTTP, with the openai client and without."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from served_cases import PROMPTS, TOKENS, WEIGHTS, expected, extra

KEY = "secret"
NAME = "base+art+risk+wide"


class Server:
    """A running `genarm serve` and the clients that talk to it."""

    def __init__(self, wide: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = log
        rewards = [f"art:{WEIGHTS[0]['art']}", f"risk:{WEIGHTS[0]['risk']}", f"wide={wide}:{WEIGHTS[0]['wide']}"]
        line = [sys.executable, "-m", "genarm", "serve", *(part for one in rewards for part in ("--reward", one))]
        line += ["--port", str(self.port), "--", "--api-key", KEY, "--dtype", "float32", "--enforce-eager"]
        line += ["--max-model-len", "256", "--max-num-seqs", "64"]
        with log.open("w") as stream:
            self.process = subprocess.Popen(line, stdout=stream, stderr=subprocess.STDOUT, env=dict(os.environ))
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=KEY, max_retries=0)

    def wait(self, seconds: float = 300.0) -> None:
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
        told = {"temperature": 0.0, "extra_body": {"vllm_xargs": numbers, "return_token_ids": True}, **settings}
        return self.client.completions.create(model=NAME, prompt=prompt, max_tokens=tokens, **told)


@pytest.fixture(scope="module")
def server(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(wide, tmp_path_factory.mktemp("server") / "log")
    try:
        running.wait()
        yield running
    finally:
        running.process.kill()


def test_it_is_the_guided_model_and_asks_for_the_key(server: Server) -> None:
    assert [model.id for model in server.client.models.list().data] == [NAME]
    assert server.status("/v1/models", key="wrong") == 401


def test_requests_are_decoded_with_the_servers_weights_or_their_own(server: Server, wide: Path) -> None:
    for numbers, weights in [(None, WEIGHTS[0]), (extra(WEIGHTS[2]), WEIGHTS[2])]:
        answer = server.complete(PROMPTS[0], numbers=numbers).choices[0]
        prompt = answer.prompt_token_ids
        assert [answer.token_ids] == expected(wide, [prompt], weights, TOKENS)


def test_200_requests_at_once_each_get_their_own_answer(server: Server, wide: Path) -> None:
    cases = [(PROMPTS[index % len(PROMPTS)], WEIGHTS[index % len(WEIGHTS)]) for index in range(200)]
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda case: server.complete(case[0], numbers=extra(case[1])).choices[0], cases))
    prompts = [one.prompt_token_ids for one in answers]
    assert [one.token_ids for one in answers] == expected(wide, prompts, [weights for _, weights in cases], TOKENS)


def test_a_seed_gives_the_same_text_again(server: Server) -> None:
    texts = [server.complete(PROMPTS[3], temperature=1.0, seed=seed).choices[0].text for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    "body",
    [
        b"no json",
        json.dumps({"model": NAME}).encode(),
        json.dumps({"model": "another", "prompt": "a"}).encode(),
        json.dumps({"model": NAME, "prompt": [999999]}).encode(),
        json.dumps({"model": NAME, "prompt": "a " * 5000}).encode(),
        json.dumps({"model": NAME, "prompt": "a", "vllm_xargs": {"weights.tree": 1.0}}).encode(),
        json.dumps({"model": NAME, "prompt": "a", "vllm_xargs": {"weights.art": "much"}}).encode(),
        json.dumps({"model": NAME, "prompt": "a", "vllm_xargs": {"weights.art": [1.0]}}).encode(),
        json.dumps({"model": NAME, "prompt": "a", "vllm_xargs": {"weights": {"art": 1.0}}}).encode(),
        json.dumps({"model": NAME, "prompt": "a", "vllm_xargs": {"beta": 0}}).encode(),
        json.dumps({"model": NAME, "prompt": "a", "echo": True, "logprobs": 1, "max_tokens": 1}).encode(),
        json.dumps({"model": NAME, "prompt": "a", "logit_bias": {"999999": 1}}).encode(),
    ],
    ids=lambda body: body[-40:].decode(),
)
def test_a_malformed_request_is_answered_and_costs_nobody_else_anything(server: Server, body: bytes) -> None:
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(server.complete, PROMPTS[0])
        assert 400 <= server.status("/v1/completions", body) < 500
        assert other.result().choices[0].text == server.complete(PROMPTS[0]).choices[0].text
    assert server.status("/health") == 200


def test_a_client_that_leaves_midway_frees_its_place(server: Server) -> None:
    stream = server.complete("I like", tokens=200, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    end = time.monotonic() + 30
    while running(server) and time.monotonic() < end:
        time.sleep(0.2)
    assert running(server) == 0
    assert server.complete(PROMPTS[0]).choices[0].text


def running(server: Server) -> float:
    """The requests that are being decoded, as the server's metrics say."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{"))


def test_sigterm_lets_running_requests_finish(server: Server) -> None:
    """The last test of this file: the server is gone after it."""
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(server.complete, "I like", 200, extra_body={"ignore_eos": True}) for _ in range(4)]
        while running(server) < 4:
            time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        assert [answer.result().choices[0].finish_reason for answer in answers] == ["length"] * 4
    assert server.process.wait(60) in (0, 143, -signal.SIGTERM)
    assert server.status("/health") == 0
