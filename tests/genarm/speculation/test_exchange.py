"""More rows than fit at once: the next prompt takes the place of a row that has ended, and no text shows it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from recorded import record_on_cpu

import genarm_kernels
from genarm import GenerationOutput, GuidedDecoder, NumericalError

ROWS, SLOTS = 20, 3
PROMPTS = random_prompts([1 + row * 7 % 13 for row in range(ROWS)], seed=1)
OPTIONS: dict[str, Any] = {
    "max_new_tokens": 24, "eos_token_id": list(range(3, 8)), "seed": 5, "return_logprobs": True,
    "temperature": [0.5 + row % 3 / 4 for row in range(ROWS)], "top_k": [row % 5 * 8 for row in range(ROWS)],
    "weights": [{"r": row % 4 / 2} for row in range(ROWS)],
    "repetition_penalty": [1 + row % 2 / 5 for row in range(ROWS)],
}  # fmt: skip


@pytest.fixture(scope="module")
def models() -> tuple[Any, dict[str, Any]]:
    return make_model("llama", seed=1), {"r": make_model("llama", seed=2, hidden=16)}


@pytest.fixture(scope="module")
def expected(models: tuple[Any, dict[str, Any]]) -> GenerationOutput:
    """All rows at once, none of which takes another's place."""
    return GuidedDecoder(*models, max_batch_size=None).generate(PROMPTS, **OPTIONS)


@pytest.mark.parametrize("how", ["auto", "hf", "captured", "drafted"])
def test_rows_that_take_others_places_are_what_they_are_at_once(
    how: str, models: tuple[Any, dict[str, Any]], expected: GenerationOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = "hf" if how == "hf" else "auto"
    if how == "captured":
        record_on_cpu(monkeypatch)
    decoder = GuidedDecoder(*models, engine=engine, max_batch_size=SLOTS, max_length=80)
    speculate = {"draft": "reward", "gamma": 2} if how == "drafted" else None
    found = decoder.generate(PROMPTS, speculate=speculate, **OPTIONS)
    assert [row.tolist() for row in found.tokens] == [row.tolist() for row in expected.tokens]
    assert found.finish_reasons == expected.finish_reasons and {"eos", "length"} >= set(found.finish_reasons)
    for name in ("logprobs", "model_logprobs"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5, equal_nan=True)
    lengths = [len(row) for row in found.tokens]
    assert len(set(lengths)) > 6, "answers of many lengths"


@pytest.mark.parametrize("speculate", [None, {"draft": "reward", "gamma": 3}], ids=["plain", "drafted"])
def test_five_hundred_prompts_waste_less_than_a_tenth(speculate: Any) -> None:
    """Of their row-steps, counted: those that gave a row a token, and those that its place stood empty."""
    rows = 500
    prompts = random_prompts([1 + row * 7 % 13 for row in range(rows)], seed=1)
    models = [make_model("llama", seed=seed, hidden=16, layers=1) for seed in (1, 2)]
    options: dict[str, Any] = {"max_new_tokens": 16, "eos_token_id": list(range(3, 12))}
    decoder = GuidedDecoder(models[0], {"r": models[1]}, max_batch_size=25)
    found = decoder.generate(prompts, seed=5, speculate=speculate, **options)
    used = found.stats.new_tokens if speculate is None else rows + found.stats.verified
    assert 0 <= 1 - used / found.stats.row_steps < 0.1
    assert len({len(row) for row in found.tokens}) == 16 and found.stats.row_steps > 1000
    at_once = GuidedDecoder(models[0], {"r": models[1]}, max_batch_size=None).generate(prompts, seed=5, **options)
    assert [row.tolist() for row in found.tokens] == [row.tolist() for row in at_once.tokens]
    assert found.finish_reasons == at_once.finish_reasons
    seeds = genarm_kernels.row_seeds(5, rows)
    for row in range(0, rows, 41):
        alone = decoder.generate([prompts[row]], seed=seeds[row : row + 1], **options)
        assert torch.equal(alone.tokens[0], found.tokens[row])


def test_a_draft_draws_by_the_settings_of_rows_that_came_later(models: tuple[Any, dict[str, Any]]) -> None:
    """So that a model is always right about itself."""
    decoder = GuidedDecoder(models[0], max_batch_size=2)
    rows = {"temperature": [0.5, 2.0, 1.0, 0.0, 1.5, 3.0], "top_k": [0, 3, 9, 0, 40, 5], "seed": 4}
    speculate = {"draft": models[0], "gamma": 3}
    found = decoder.generate(PROMPTS[:6], speculate=speculate, max_new_tokens=9, eos_token_id=[], **rows)
    assert found.stats.accepted == found.stats.drafted == 6 * 2 * 3 and found.stats.mean_accepted == 4


def test_a_stream_says_the_same(models: tuple[Any, dict[str, Any]], expected: GenerationOutput) -> None:
    decoder = GuidedDecoder(*models, max_batch_size=SLOTS)
    steps = list(decoder.stream(PROMPTS, **OPTIONS))
    assert [torch.cat([step.tokens[row] for step in steps]).tolist() for row in range(ROWS)] == [
        row.tolist() for row in expected.tokens
    ]
    assert bool(steps[-1].finished.all())


@pytest.mark.parametrize(("engine", "speculate"), [("auto", None), ("hf", None), ("auto", "ngram"), ("hf", "ngram")])
def test_a_row_that_fails_leaves_nothing_in_its_place(engine: Any, speculate: str | None) -> None:
    model = make_model("llama", seed=1)
    prompts = [prompt.clamp(max=50) for prompt in PROMPTS]
    options: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": [], "seed": 5, "allowed_tokens": range(50)}
    expected = GuidedDecoder(model, max_batch_size=None).generate(prompts, **options)
    with torch.no_grad():
        model.model.embed_tokens.weight[60] = torch.nan
    bad = list(prompts)
    bad[2] = torch.cat([prompts[2], torch.tensor([60])])
    decoder = GuidedDecoder(model, max_batch_size=SLOTS, engine=engine)
    found = decoder.generate(bad, speculate=speculate, **options)
    assert list(found.errors) == [2] and isinstance(found.errors[2], NumericalError)
    for row in set(range(ROWS)) - {2}:
        assert torch.equal(found.tokens[row], expected.tokens[row])
