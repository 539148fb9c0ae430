"""`genarm serve` started for real: vLLM's server over HTTP, with the openai client and without."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from served_cases import BROKEN, NAMES, PROMPTS, TOKENS, WEIGHTS, decoder, expected, extra, make_broken_model
from served_process import NAME, Server, serving


@pytest.fixture(scope="module")
def wide(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It breaks on one token, which costs no request that does not have it."""
    return make_broken_model(wide, tmp_path_factory.mktemp("broken") / "model")


@pytest.fixture(scope="module")
def server(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(wide, tmp_path_factory.mktemp("server")) as running:
        yield running


def test_it_is_the_guided_model_and_asks_for_the_key(server: Server) -> None:
    (model,) = server.client.models.list().data
    assert model.id == NAME and model.genarm == {"weights": WEIGHTS[0], "beta": 1.0, "base_weight": 1.0}
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


def models_of(logprobs: Any) -> torch.Tensor:
    """[n, 1 + K], what a response says of its tokens."""
    assert list(logprobs.model_logprobs) == ["base", *NAMES]
    return torch.tensor(list(logprobs.model_logprobs.values())).T


def assert_scored(wide: Path, prompt: list[int], tokens: list[int], found: torch.Tensor) -> None:
    scores = decoder(wide).score([prompt], [tokens]).model_logprobs[0]
    torch.testing.assert_close(found, scores, atol=2e-4, rtol=0)


ASKED = {"model_logprobs": True, "weights.art": 1.5}


def test_a_response_has_every_models_log_probabilities_where_it_was_asked(server: Server, wide: Path) -> None:
    """Greedy and drawn, with a stop string, several answers, and beside requests that do not ask."""
    cases: list[dict[str, Any]] = [
        {"logprobs": 0},
        {"logprobs": 2, "temperature": 1.0, "seed": 3, "n": 2},
        {"logprobs": 1, "temperature": 1.0, "stop": ["the", "a"]},
    ]
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(server.complete, PROMPTS[index], logprobs=2) for index in range(4)]
        answers = list(pool.map(lambda case: server.complete(PROMPTS[0], numbers=ASKED, **case), cases))
    for other in others:
        assert not hasattr(other.result().choices[0].logprobs, "model_logprobs")
    for case, answer in zip(cases, answers, strict=True):
        for choice in answer.choices:
            assert_scored(wide, choice.prompt_token_ids, choice.token_ids, models_of(choice.logprobs))
            assert all(len(top) <= case["logprobs"] + 1 for top in choice.logprobs.top_logprobs)
            assert max(choice.logprobs.token_logprobs) <= 0.0
    plain = server.complete(PROMPTS[0], numbers={"weights.art": 1.5}, logprobs=0).choices[0].logprobs
    for before, after in zip(plain.top_logprobs, answers[0].choices[0].logprobs.top_logprobs, strict=True):
        assert before == pytest.approx(after, abs=1e-4)


def test_a_stream_has_them_token_by_token(server: Server, wide: Path) -> None:
    stream = server.complete(PROMPTS[1], numbers=ASKED, stream=True, logprobs=0, temperature=1.0, stop=["the"])
    prompt, tokens, found = [], [], []
    for chunk in stream:
        (choice,) = chunk.choices
        prompt += choice.prompt_token_ids or [] if not prompt else []
        tokens += choice.token_ids
        if choice.token_ids:
            found.append(models_of(choice.logprobs))
            assert len(found[-1]) == len(choice.token_ids) == len(choice.logprobs.tokens)
    assert len(found) > 1
    assert_scored(wide, prompt, tokens, torch.cat(found))


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_has_them(server: Server, wide: Path, stream: bool) -> None:
    told: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": PROMPTS[2]}], "max_tokens": TOKENS}
    told |= {"logprobs": True, "extra_body": {"vllm_xargs": ASKED, "return_token_ids": True}}
    answer = server.client.chat.completions.create(**told, stream=stream)
    parts = [chunk for chunk in answer if chunk.choices] if stream else [answer]
    choices = [part.choices[0] for part in parts]
    tokens = [token for choice in choices for token in getattr(choice, "token_ids", None) or []]
    found = [models_of(choice.logprobs) for choice in choices if choice.logprobs]
    (prompt,) = [part.prompt_token_ids for part in parts if getattr(part, "prompt_token_ids", None)]
    assert len(tokens) > 1 and sum(len(choice.logprobs.content) for choice in choices if choice.logprobs) == len(tokens)
    assert_scored(wide, prompt, tokens, torch.cat(found))


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
        json.dumps({"model": NAME, "prompt": "a", "vllm_xargs": {"model_logprobs": True}}).encode(),
        json.dumps({"model": NAME, "prompt": "a", "logprobs": 1, "vllm_xargs": {"model_logprobs": "on"}}).encode(),
        json.dumps(
            {"model": NAME, "prompt": "a", "logprobs": 1, "vllm_xargs": {"model_logprobs": {"beside": 0}}}
        ).encode(),
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


def test_a_model_that_breaks_ends_the_request_by_name_and_no_other(server: Server, wide: Path) -> None:
    prompt = [10, BROKEN, 20]
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(server.complete, PROMPTS[0]) for _ in range(4)]
        for settings in ({}, {"stream": True}, {"logprobs": 1, "numbers": ASKED | {"weights.wide": 1.0}}):
            with pytest.raises(openai.APIError, match="the logits of 'wide' hold NaN"):
                list(server.complete(prompt, **settings))
        (tokens,) = expected(wide, [prompt], WEIGHTS[1], TOKENS)
        assert server.complete(prompt, numbers=extra(WEIGHTS[1])).choices[0].token_ids == tokens
        assert len({other.result().choices[0].text for other in others}) == 1
    body = {"model": NAME, "prompt": prompt, "max_tokens": 2}
    assert server.status("/v1/completions", json.dumps(body).encode()) == 500
    assert server.status("/health") == 200


def test_a_client_that_leaves_midway_frees_its_place(server: Server) -> None:
    stream = server.complete("I like", tokens=200, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    server.settle()
    assert server.complete(PROMPTS[0]).choices[0].text


def test_sigterm_lets_running_requests_finish(server: Server) -> None:
    """The last test of this file: the server is gone after it. The last of four answers has just begun by then."""

    def begun(_: int) -> Iterator[Any]:
        chunks = iter(server.complete("I like", 200, stream=True, extra_body={"ignore_eos": True}))
        next(chunks)
        return chunks

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(begun, range(4)))
        server.process.send_signal(signal.SIGTERM)
        ends = pool.map(lambda chunks: [chunk.choices[0].finish_reason for chunk in chunks][-1], answers)
        assert list(ends) == ["length"] * 4
    assert server.process.wait(60) in (0, 143, -signal.SIGTERM)
    assert server.status("/health") == 0
