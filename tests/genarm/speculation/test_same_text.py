"""Speculation changes no text: whoever drafts, however many tokens ahead, a seed gives what it gives without."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from families import make_model, random_prompts, save_adapter
from recorded import record_on_cpu

from genarm import GenARMError, GenerationOutput, GuidedDecoder
from genarm.embedded import BASE
from genarm.errors import InvalidArgumentError, VocabularyMismatchError

PROMPTS = [*random_prompts([6, 11, 3], seed=1), torch.tensor([5, 6, 7, 8, 5, 6, 7]), torch.tensor([9, 4, 9, 4, 9])]
OPTIONS: dict[str, Any] = {"max_new_tokens": 14, "seed": 3, "return_logprobs": True, "return_normalizers": True}
WARM: dict[str, Any] = {"temperature": 1.0, "eos_token_id": list(range(3, 9))}
FILTERED: dict[str, Any] = {"temperature": 0.8, "top_k": 12, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.3}
COLD: dict[str, Any] = {"temperature": 0.0, "eos_token_id": []}
GATED: dict[str, Any] = {"guide_when": {"entropy": 3.0}, "weights": {"a": 0.5}, "temperature": 1.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    base = make_model("llama", seed=1)
    wrong = copy.deepcopy(base)  # what it says next is what the base never does
    wrong.lm_head.weight.data.neg_()
    folder = tmp_path_factory.mktemp("adapters")
    adapters = {name: save_adapter(base, "llama", folder / name, seed=4 + place) for place, name in enumerate("abc")}
    own = make_model("llama", seed=2, hidden=16)
    return {"base": base, "wrong": wrong, "random": make_model("qwen2", seed=5, hidden=16), "own": own, **adapters}


def rewards(models: dict[str, Any], count: int) -> dict[str, Any]:
    """None, one on the base's weights, or two of those and one with weights of its own."""
    return {0: {}, 1: {"a": models["a"]}, 3: {"a": models["a"], "b": models["b"], "own": models["own"]}}[count]


def assert_same(found: GenerationOutput, expected: GenerationOutput) -> None:
    assert [row.tolist() for row in found.tokens] == [row.tolist() for row in expected.tokens]
    assert found.finish_reasons == expected.finish_reasons
    assert torch.equal(found.sequences, expected.sequences)
    for name in ("logprobs", "model_logprobs", "log_normalizers", "guided"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    ("draft", "gamma", "count", "settings", "batch", "engine"),
    [
        ("ngram", 1, 0, WARM, 5, "auto"), ("ngram", 3, 1, COLD, 5, "hf"), ("ngram", 7, 3, FILTERED, 5, "auto"),
        ("ngram", 3, 1, GATED, 5, "auto"), ("ngram", 7, 0, COLD, 1, "auto"), ("ngram", 3, 3, WARM, 1, "hf"),
        ("base", 3, 0, WARM, 5, "auto"), ("base", 7, 1, COLD, 1, "hf"), ("base", 1, 3, FILTERED, 5, "hf"),
        ("wrong", 7, 0, WARM, 5, "auto"), ("wrong", 3, 1, FILTERED, 5, "auto"), ("wrong", 1, 3, COLD, 1, "hf"),
        ("random", 3, 1, WARM, 5, "hf"), ("random", 7, 3, COLD, 5, "auto"), ("random", 1, 0, FILTERED, 1, "auto"),
        ("reward", 3, 3, WARM, 5, "auto"), ("reward", 7, 3, FILTERED, 5, "hf"), ("reward", 1, 3, COLD, 1, "auto"),
    ],
)  # fmt: skip
def test_a_draft_changes_no_token(
    draft: str, gamma: int, count: int, settings: dict[str, Any], batch: int, engine: Any, models: dict[str, Any]
) -> None:
    decoder = GuidedDecoder(models["base"], rewards(models, count), engine=engine)
    options = OPTIONS | settings
    expected = decoder.generate(PROMPTS[-batch:], **options)
    speculate = {"draft": draft if draft in ("ngram", "reward") else models[draft], "gamma": gamma}
    found = decoder.generate(PROMPTS[-batch:], speculate=speculate, **options)
    assert_same(found, expected)
    assert found.stats.accepted <= found.stats.drafted
    if draft == "base" and not count:
        assert found.stats.mean_accepted > 1 + 0.6 * gamma, "what the target drafts is right, up to its rows' ends"
    if draft == "wrong" and settings is COLD:
        assert found.stats.accepted == 0 and found.stats.drafted > 0


@pytest.mark.parametrize(("draft", "gamma"), [("ngram", 3), ("reward", 2), ("random", 7), ("ngram", "auto")])
def test_captured_steps_draft_too(
    draft: str, gamma: Any, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = OPTIONS | WARM
    expected = GuidedDecoder(models["base"], rewards(models, 3), engine="eager").generate(PROMPTS, **options)
    record_on_cpu(monkeypatch)
    decoder = GuidedDecoder(models["base"], rewards(models, 3), max_batch_size=8, max_length=100)
    speculate = {"draft": models.get(draft, draft), "gamma": gamma}
    for _ in range(2):  # captured, and replayed for another call
        assert_same(decoder.generate(PROMPTS, speculate=speculate, **options), expected)
    assert decoder.engine.captures
    assert decoder.generate(PROMPTS, speculate=speculate, **options).stats.engine.endswith("(CUDA graphs)")


def test_a_padded_path_drafts_nothing_and_counts_no_step(models: dict[str, Any]) -> None:
    decoder = GuidedDecoder(models["base"], engine="hf")
    decoder.engine.backbones[0].static = False  # type: ignore[attr-defined]
    expected = decoder.generate(PROMPTS, **OPTIONS)
    found = decoder.generate(PROMPTS, speculate={"draft": models["base"], "gamma": 3}, **OPTIONS)
    assert_same(found, expected)
    stats = found.stats
    assert stats.engine.startswith("hf-padded") and stats.drafted == stats.verified == 0


def test_texts_end_on_the_same_token(models: dict[str, Any]) -> None:
    """EOS, stop ids and the length, inside of drafts that are all right."""
    decoder = GuidedDecoder(models["base"])
    free = decoder.generate(PROMPTS, max_new_tokens=12, seed=3, eos_token_id=[])
    speculate = {"draft": models["base"], "gamma": 7}
    row = free.tokens[0].tolist()
    ends: list[dict[str, Any]] = [{"eos_token_id": row[4]}, {"stop": [row[2:5]]}, {"max_new_tokens": 5}]
    for end in ends:
        options = {"max_new_tokens": 12, "seed": 3, "eos_token_id": [], **end}
        expected = decoder.generate(PROMPTS, **options)
        assert len(expected.tokens[0]) == 5
        assert_same(decoder.generate(PROMPTS, speculate=speculate, **options), expected)
        steps = list(decoder.stream(PROMPTS, speculate=speculate, **options))
        streamed = [torch.cat([step.tokens[place] for step in steps]).tolist() for place in range(len(PROMPTS))]
        assert streamed == [tokens.tolist() for tokens in expected.tokens]


def test_drafts_that_are_right_spare_steps(models: dict[str, Any]) -> None:
    decoder = GuidedDecoder(models["base"])
    options: dict[str, Any] = {"max_new_tokens": 25, "eos_token_id": [], "seed": 3}
    found = decoder.generate(PROMPTS[:1], speculate={"draft": models["base"], "gamma": 7}, **options)
    assert found.stats.steps == 4, "the prompt's, and three of eight tokens"
    assert found.stats.drafted == 21 == found.stats.accepted and found.stats.verified == 3


@pytest.mark.parametrize(
    ("speculate", "error", "message"),
    [
        (4, InvalidArgumentError, "drafts by 4"),
        ({"draft": "ngram", "gamma": 0}, InvalidArgumentError, "gamma is 0"),
        ({"draft": "ngram", "gamma": 8}, InvalidArgumentError, "from 1 to 7"),
        ({"gama": 3}, InvalidArgumentError, "names 'gama'"),
        ("reward", InvalidArgumentError, "weights of its own"),
        ("no/such/model", GenARMError, "no/such/model"),
    ],
)
def test_what_cannot_draft_is_refused(speculate: Any, error: Any, message: str, models: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        GuidedDecoder(models["base"], rewards(models, 1)).generate(PROMPTS, speculate=speculate)


def test_other_refusals(models: dict[str, Any]) -> None:
    decoder = GuidedDecoder(models["base"])
    with pytest.raises(InvalidArgumentError, match="particles"):
        decoder.generate(PROMPTS, speculate="ngram", particles=2)
    with pytest.raises(VocabularyMismatchError):
        decoder.generate(PROMPTS, speculate=make_model("llama", seed=1, vocab=300))


def test_a_stop_string_ends_a_text_inside_of_a_draft() -> None:
    decoder = GuidedDecoder.from_pretrained(BASE, device="cpu")
    prompts = ["I really enjoy", "My favourite"]
    free = decoder.generate(prompts, max_new_tokens=16, eos_token_id=[], seed=2)
    assert free.texts is not None
    stop = free.texts[0][5:8]
    options: dict[str, Any] = {"max_new_tokens": 16, "eos_token_id": [], "seed": 2, "stop": [stop]}
    expected = decoder.generate(prompts, **options)
    speculate = {"draft": decoder.models[0].module, "gamma": 7}
    found = decoder.generate(prompts, speculate=speculate, **options)
    assert found.texts == expected.texts and stop not in expected.texts[0]  # type: ignore[index]
    assert found.finish_reasons[0] == "stop" and found.finish_reasons == expected.finish_reasons
    assert [row.tolist() for row in found.tokens] == [row.tolist() for row in expected.tokens]
    steps = [step.texts or [] for step in decoder.stream(prompts, speculate=speculate, **options)]
    streamed = ["".join(texts[row] for texts in steps) for row in (0, 1)]
    assert streamed == expected.texts
