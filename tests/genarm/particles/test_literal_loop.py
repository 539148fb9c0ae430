"""Particles on every path are the loop over whole texts in particle_loop.py: tokens, weights, ancestors, evidence."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from families import make_model, random_prompts, save_adapter, with_adapter, word_tokenizer
from particle_loop import System, system
from recorded import record_on_cpu
from torch import Tensor

from genarm import GenerationOutput, GuidedDecoder
from genarm_kernels import row_seeds

PROMPTS = random_prompts([5, 11], seed=1)
OTHER = random_prompts([9, 2], seed=2)
EOS = list(range(9, 15))
COMMON: dict[str, Any] = {"particles": 4, "max_new_tokens": 5, "seed": 3, "eos_token_id": EOS}


class Case(NamedTuple):
    """weights: of the base and each reward model, by prompt; resampled: how often at least, over both prompts; ends:
    that the separate reward model reads a prompt of its own, and answers have a terminal reward."""

    weights: list[list[float]]
    options: dict[str, Any]
    resampled: int
    ends: bool = False


CASES = {
    "every token": Case(
        [[1.0, 0.3, -0.2], [1.0, 0.1, 0.3]],
        {"resample_below": 1.0, "top_k": 40, "top_p": 0.95, "num_return_sequences": 3},
        8,
    ),
    "at half": Case(
        [[1.0, 0.7], [1.0, 0.5]],
        {"repetition_penalty": 1.05, "temperature": 0.9, "min_p": 0.01, "stop": [[k, k + 1] for k in range(15, 96)]},
        1,
    ),
    "never": Case(
        [[1.0, 0.3, -0.2], [1.0, 0.0, 0.4]],
        {"resample_below": 0.0, "base_min_p": 0.02, "length_bonus": 0.4, "temperature": 1.3, "beta": 0.5},
        0,
        True,
    ),
    "every other": Case(
        [[1.0, 0.3, 0.2], [1.0, -0.2, 0.3]],
        {"resample_below": 1.0, "resample_every": 2, "base_top_p": 0.9, "stop": [[k] for k in range(15, 25)]},
        4,
    ),
}


def worth(texts: list[str]) -> list[float]:
    """A terminal reward, of the words w3, w4 and so on."""
    return [sum(int(word[1:]) for word in text.split()) / 100 for text in texts]


def worth_of_tokens(tokens: list[int]) -> float:
    """What it adds to a log-weight."""
    return sum(tokens) / 100 / CASES["never"].options["beta"]


class Models(NamedTuple):
    base: Any
    rewards: dict[str, Any]
    plain: list[Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A base, an adapter on it, and a reward model of its own."""
    base, other = make_model("llama", seed=1), make_model("qwen3", seed=2, hidden=16, layers=1)
    folder = save_adapter(base, "llama", tmp_path_factory.mktemp("adapter"), seed=4)
    return Models(base, {"lora": folder, "full": other}, [base, with_adapter(base, folder).merge_and_unload(), other])


@pytest.fixture(scope="module")
def expected(models: Models) -> dict[str, list[System]]:
    """The systems of every case, by prompt."""
    found: dict[str, list[System]] = {}
    for name, case in CASES.items():
        found[name] = []
        seeds = row_seeds(COMMON["seed"], 2).tolist()
        for prompt, other, weights, seed in zip(PROMPTS, OTHER, case.weights, seeds, strict=True):
            own = [prompt, prompt, other if case.ends else prompt][: len(weights)]
            terminal = worth_of_tokens if case.ends else None
            found[name].append(system(models.plain[: len(own)], own, weights, seed, COMMON | case.options, terminal))
    return found


def generate(decoder: GuidedDecoder, case: Case, **more: Any) -> GenerationOutput:
    weights = torch.tensor(case.weights)[:, 1:] * case.options.get("beta", 1.0)  # which they are divided by
    given: dict[str, Any] = {"reward_prompts": {"full": OTHER}, "terminal": worth} if case.ends else {}
    wanted = {"return_particles": True, "return_normalizers": True, "return_logprobs": True}
    return decoder.generate(PROMPTS, weights=weights, **given, **wanted, **COMMON | case.options | more)


def assert_is(out: GenerationOutput, systems: list[System]) -> None:
    copies = len(out.tokens) // len(systems)
    assert not out.errors and out.particles is not None and len(out.particles) == len(out.tokens)
    assert out.log_evidence is not None and out.log_evidence.dtype == torch.float64
    for prompt, (found, own) in enumerate(zip(out.particles[::copies], systems, strict=True)):
        assert [row.tolist() for row in found.tokens] == [one.tokens for one in own.particles]
        assert list(found.finish_reasons) == [one.reason for one in own.particles]
        close(found.log_weights, [one.log_weight for one in own.particles])
        evidence = [own.log_evidence] * copies
        close(out.log_evidence[prompt * copies : (prompt + 1) * copies], evidence)
        for row, slot in enumerate(own.answers, start=prompt * copies):
            answer = own.particles[slot]
            assert out.tokens[row].tolist() == answer.tokens and out.finish_reasons[row] == answer.reason
            for rows, values in (out.log_normalizers, answer.normalizers), (out.logprobs, answer.logprobs):
                assert rows is not None and bool(rows[row, len(values) :].isnan().all())
                close(rows[row, : len(values)], values)


def close(found: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), atol=5e-4, rtol=1e-5)


def test_the_cases_are_what_they_say(expected: dict[str, list[System]]) -> None:
    """Resampling that moves particles, finished ones among those that others take the place of, all endings."""
    for name, case in CASES.items():
        assert sum(one.resampled for one in expected[name]) >= case.resampled
        assert (sum(one.moved for one in expected[name]) > 0) == (case.resampled > 0)
    every = [one for systems in expected.values() for own in systems for one in own.particles]
    assert {one.reason for one in every} == {"eos", "stop", "length"}
    for systems in expected.values():
        assert any(len({tuple(one.tokens) for one in own.particles}) > 1 for own in systems)


@pytest.mark.parametrize(
    ("name", "path"),
    [(name, "fused") for name in CASES]
    + [(name, "hf") for name in ("at half", "never")]
    + [(name, "hf-padded") for name in ("every token", "every other")],
)
def test_particles_are_the_literal_loop(
    name: str, path: str, models: Models, expected: dict[str, list[System]]
) -> None:
    case = CASES[name]
    rewards = {key: models.rewards[key] for key in ("lora", "full")[: len(case.weights[0]) - 1]}
    at_once = {"every token": 8, "at half": 3, "never": 4, "every other": 16}[name]  # one prompt's are never parted
    engine: Any = "auto" if path == "fused" else "hf"
    decoder = GuidedDecoder(models.base, rewards, word_tokenizer(), engine=engine, max_batch_size=at_once)
    if path == "hf-padded":
        for backbone in decoder.engine.backbones:
            backbone.static = False  # type: ignore[attr-defined]
    out = generate(decoder, case)
    assert out.stats.engine == path
    assert_is(out, expected[name])


def test_captured_steps_are_the_literal_loop(
    models: Models, expected: dict[str, list[System]], monkeypatch: pytest.MonkeyPatch
) -> None:
    record_on_cpu(monkeypatch)
    decoder = GuidedDecoder(models.base, models.rewards, max_batch_size=16, max_length=40)
    for name in ("every token", "every token"):
        out = generate(decoder, CASES[name])
        assert out.stats.engine == "fused (CUDA graphs)"
        assert_is(out, expected[name])


def test_a_system_does_not_depend_on_its_batch_mates(models: Models) -> None:
    """To the last bit where the batch has one shape; alone, the prompts' own pass may round otherwise."""
    decoder = GuidedDecoder(models.base, models.rewards, max_batch_size=16)
    weights, seeds = torch.tensor([[0.3, -0.2], [0.1, 0.3], [2.0, 0.1]]), torch.tensor([11, 12, 13])
    prompts, others = [*PROMPTS, OTHER[0]], random_prompts([5, 11, 9], seed=9)
    wanted: dict[str, Any] = COMMON | CASES["every token"].options
    wanted |= {"return_particles": True, "return_normalizers": True}

    def drawn(rows: list[Tensor], mates: slice = slice(None), **own: Any) -> tuple[Any, Tensor, Tensor]:
        out = decoder.generate(rows, weights=weights[mates], **wanted | {"seed": seeds[mates]} | own)
        assert out.particles is not None and out.log_evidence is not None and out.log_normalizers is not None
        return out.particles[::3], out.log_evidence[::3], out.log_normalizers

    together = drawn(prompts)
    for row in range(3):
        mixed = drawn([*others[:row], prompts[row], *others[row + 1 :]])
        alone = drawn(prompts[row : row + 1], slice(row, row + 1))
        mine = together[0][row]
        for found, place in (mixed, row), (alone, 0):
            its = found[0][place]
            assert [own.tolist() for own in mine.tokens] == [own.tolist() for own in its.tokens]
            torch.testing.assert_close(mine.log_weights, its.log_weights, atol=1e-5, rtol=0)
        assert torch.equal(mine.log_weights, mixed[0][row].log_weights)
        assert torch.equal(together[1][row], mixed[1][row])
