"""More rows than fit at once: the next prompt takes the place of a row that has ended, and no text shows it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from recorded import record_on_cpu

from genarm import GuidedDecoder, NumericalError

ROWS, SLOTS = 40, 4
PROMPTS = random_prompts([1 + row * 7 % 13 for row in range(ROWS)], seed=1)
OPTIONS: dict[str, Any] = {
    "max_new_tokens": 40, "eos_token_id": list(range(3, 8)), "seed": 5, "return_logprobs": True,
    "temperature": [0.5 + row % 3 / 4 for row in range(ROWS)], "top_k": [row % 5 * 8 for row in range(ROWS)],
    "weights": [{"r": row % 4 / 2} for row in range(ROWS)],
    "repetition_penalty": [1 + row % 2 / 5 for row in range(ROWS)],
}  # fmt: skip


@pytest.fixture(scope="module")
def models() -> tuple[Any, dict[str, Any]]:
    return make_model("llama", seed=1), {"r": make_model("llama", seed=2, hidden=16)}


@pytest.mark.parametrize("how", ["auto", "hf", "captured", "drafted"])
def test_rows_that_take_others_places_are_what_they_are_alone(
    how: str, models: tuple[Any, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = "hf" if how == "hf" else "auto"
    expected = GuidedDecoder(*models, engine=engine, max_batch_size=None).generate(PROMPTS, **OPTIONS)
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
    assert len(set(lengths)) > 8, "answers of many lengths"
    if speculate is None:
        assert 1 - found.stats.new_tokens / found.stats.row_steps < 0.1


def test_a_stream_says_the_same(models: tuple[Any, dict[str, Any]]) -> None:
    decoder = GuidedDecoder(*models, max_batch_size=SLOTS)
    out = decoder.generate(PROMPTS, **OPTIONS)
    steps = list(decoder.stream(PROMPTS, **OPTIONS))
    assert [torch.cat([step.tokens[row] for step in steps]).tolist() for row in range(ROWS)] == [
        row.tolist() for row in out.tokens
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
