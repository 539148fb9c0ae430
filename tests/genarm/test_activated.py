"""Decoding with reward models that sleep on the prompt, held to a literal loop over transformers and PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import random_prompts
from fused_cases import build, untouched
from torch import Tensor
from woken_cases import greedy, mixed

from genarm import GuidedDecoder
from genarm.models.fused import session as session_module
from genarm.models.fused import shared as shared_module

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning:peft.*"), pytest.mark.usefixtures("cpu_path")]
STEPS = 8
RAGGED = [5, 13, 1, 2]
FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]


def expected(plain: list[Any], weights: list[dict[str, float]], prompts: list[Tensor], steps: int = STEPS) -> list[Any]:
    names = [f"r{place}" for place in range(len(plain) - 1)]
    return [
        greedy(plain, [1.0, *(own.get(name, 0.0) for name in names)], prompt, steps)
        for own, prompt in zip(weights, prompts, strict=True)
    ]


def assert_tokens(found: list[Tensor], wanted: list[list[int]]) -> None:
    assert sum(map(len, wanted)) > len(wanted) * STEPS // 2  # near ties cut few rows short
    for row, tokens in zip(found, wanted, strict=True):
        assert row[: len(tokens)].tolist() == tokens


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_the_literal_loops(family: str, K: int, tmp_path: Path) -> None:
    """Ragged rows with weights of their own; with K = 3 one of the reward models is ordinary."""
    base = build(family)
    rewards, plain = mixed(base, max(1, K - 1), tmp_path, ordinary=int(K > 1))
    prompts = random_prompts(RAGGED, seed=1)
    weights = [{"r0": 1.0}, dict.fromkeys(rewards, 0.7), {"r0": 2.0}, {}]
    decoder = GuidedDecoder(base, rewards)
    found = decoder.generate(prompts, weights=weights, temperature=0.0, max_new_tokens=STEPS, eos_token_id=[])
    assert_tokens(found.tokens, expected(plain, weights, prompts))


@pytest.mark.parametrize("options", [{"max_batch_size": 2}, {"max_batch_size": 3}])
def test_prompts_that_take_the_places_of_others(options: dict[str, Any], tmp_path: Path) -> None:
    base = build("llama")
    rewards, plain = mixed(base, 1, tmp_path, ordinary=1)
    prompts = random_prompts([5, 13, 1, 2, 13, 7], seed=1)
    prompts[4] = prompts[1].clone()
    weights = [{"r0": 1.0, "r1": 0.5}] * 6
    decoder = GuidedDecoder(base, rewards, **options)
    asked = {"weights": weights, "temperature": 0.0, "max_new_tokens": STEPS, "eos_token_id": []}
    assert_tokens(decoder.generate(prompts, **asked).tokens, expected(plain, weights, prompts))


def test_speculation_draws_the_same(tmp_path: Path) -> None:
    base = build("llama")
    rewards, plain = mixed(base, 2, tmp_path, ordinary=1)
    prompts = random_prompts(RAGGED[:3], seed=1)
    weights = [dict.fromkeys(rewards, 0.5)] * 3
    decoder = GuidedDecoder(base, rewards)
    asked = {"weights": weights, "temperature": 0.0, "max_new_tokens": 24, "eos_token_id": []}
    found = decoder.generate(prompts, speculate={"draft": untouched(base), "gamma": 3}, **asked)
    assert 0 < found.stats.accepted < found.stats.drafted
    assert_tokens(found.tokens, expected(plain, weights, prompts, 24))


def test_scores_are_those_of_decoding(tmp_path: Path) -> None:
    base = build("qwen3")
    rewards, _ = mixed(base, 1, tmp_path, ordinary=1)
    decoder, prompts = GuidedDecoder(base, rewards), random_prompts(RAGGED, seed=1)
    weights = {"r0": 1.0, "r1": 0.5}
    drawn = decoder.generate(
        prompts, weights=weights, max_new_tokens=STEPS, seed=1, return_logprobs=True, eos_token_id=[]
    )
    scored = decoder.score(prompts, drawn.tokens, weights=weights)
    assert drawn.logprobs is not None
    for row, own in enumerate(scored.logprobs):
        torch.testing.assert_close(own, drawn.logprobs[row], atol=2e-4, rtol=2e-4)


def test_particles_go_on_as_others(tmp_path: Path) -> None:
    """A system of one prompt, resampled at every token: each particle's weight is its own text's."""
    base = build("llama")
    rewards, _ = mixed(base, 1, tmp_path, ordinary=1)
    decoder, prompts = GuidedDecoder(base, rewards), random_prompts([5, 9], seed=1)
    weights = {"r0": 1.0, "r1": 0.5}
    found = decoder.generate(
        prompts, weights=weights, particles=4, resample_below=1.0, max_new_tokens=STEPS, seed=1, return_logprobs=True,
        eos_token_id=[], temperature=0.5,
    )  # fmt: skip
    scored = decoder.score(prompts, found.tokens, weights=weights, temperature=0.5)
    assert found.logprobs is not None
    for row, own in enumerate(scored.logprobs):
        torch.testing.assert_close(own, found.logprobs[row], atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(("engine", "read"), [("auto", 3 * 1), ("hf", 5 + 13 + 1)])
def test_tokens_that_an_activated_model_reads_are_counted(engine: Any, read: int, tmp_path: Path) -> None:
    """Of three prompts each one's last; through transformers, where it reads for itself, all."""
    rewards, _ = mixed(build("llama"), 1, tmp_path)
    decoder = GuidedDecoder(build("llama"), rewards, engine=engine)
    found = decoder.generate(random_prompts(RAGGED[:3], seed=1), max_new_tokens=2, eos_token_id=[]).stats.forwarded
    assert found == {"base": 5 + 13 + 1 + 3, "r0": read + 3}


@pytest.fixture
def cache_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of the cache of each session that is opened."""
    sizes: list[int] = []
    own = session_module.buffers

    def counted(shapes: Any, like: Tensor, memory: Tensor | None) -> list[Tensor]:
        made = own(shapes, like, memory)
        sizes.append(sum(one.numel() * one.element_size() for one in made))
        return made

    monkeypatch.setattr(session_module, "buffers", counted)
    monkeypatch.setattr(shared_module, "buffers", counted)
    return sizes


TOKEN = 2 * 2 * 2 * 8 * 4  # layers, keys and values, key heads, their size, bytes


def test_a_prompt_is_held_once(tmp_path: Path, cache_sizes: list[int]) -> None:
    """Cache bytes are a plain decoder's and the tails of the reward models."""
    base = build("llama")
    rewards, _ = mixed(base, 3, tmp_path)
    prompt, behind = random_prompts([100], seed=1), 10
    for decoder in (GuidedDecoder(base, []), GuidedDecoder(base, rewards)):
        decoder.generate(prompt, max_new_tokens=behind)
    plain, guided = cache_sizes
    assert plain == (100 + behind + 1) * TOKEN
    assert guided == plain + (3 * (behind + 2) + 1 - 1) * TOKEN


@pytest.mark.parametrize("slots", [8, 16])
def test_sequences_with_one_prompt_hold_it_once(slots: int, tmp_path: Path, cache_sizes: list[int]) -> None:
    """With an ordinary reward model beside, which has one of its own."""
    base = build("llama")
    rewards, _ = mixed(base, 1, tmp_path, ordinary=1)
    decoder = GuidedDecoder(base, rewards, max_batch_size=slots)
    decoder.generate(random_prompts([100], seed=1), num_return_sequences=16, max_new_tokens=10, seed=1)
    assert cache_sizes == [(2 * 99 + slots * 3 * 12) * TOKEN]
