"""What a batch comes to: log-probabilities held against float64, and rows that fail while the others go on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from torch import Tensor

from genarm import GenARMError, GenerationOutput, GuidedDecoder, NumericalError

PROMPTS = random_prompts([6, 11, 3], seed=1)
WEIGHTS = [1.0, 0.8, -0.5]
FILTERS = {"top_k": 30, "top_p": 0.8, "min_p": 0.02, "base_min_p": 0.05}


@pytest.fixture(scope="module")
def models() -> list[Any]:
    return [make_model("llama", seed=1), make_model("llama", seed=2, hidden=16), make_model("gpt2", seed=3)]


@pytest.fixture(scope="module")
def decoder(models: list[Any]) -> GuidedDecoder:
    return GuidedDecoder(models[0], {"a": models[1], "b": models[2]})


def generate(decoder: GuidedDecoder, **options: Any) -> GenerationOutput:
    settings = {"weights": {"a": 0.8, "b": -0.5}, "max_new_tokens": 6, "seed": 5, "eos_token_id": [], **options}
    return decoder.generate(PROMPTS, return_logprobs=True, **settings)


def log_probs(models: list[Any], prefix: Tensor) -> Tensor:
    """[M, V] float64, each model on its own."""
    with torch.no_grad():
        return torch.stack([model(input_ids=prefix[None]).logits[0, -1].double() for model in models]).log_softmax(-1)


def filtered(scores: Tensor, base: Tensor, temperature: float) -> Tensor:
    """[V] float64 log-probabilities by the contract's order: the base's filters, temperature, top-k, top-p, min-p."""
    keep = base.exp() >= FILTERS["base_min_p"] * base.exp().max()
    scores = torch.where(keep, scores, -torch.inf) / temperature
    scores = scores.masked_fill(scores < scores.topk(int(FILTERS["top_k"])).values[-1], -torch.inf)
    ordered, ids = scores.softmax(0).sort(descending=True)
    scores[ids[ordered.cumsum(0) - ordered >= FILTERS["top_p"]]] = -torch.inf
    probs = scores.softmax(0)
    return scores.masked_fill(probs < FILTERS["min_p"] * probs.max(), -torch.inf).log_softmax(0)


@pytest.mark.parametrize("temperature", [1.3, 0.0])
def test_logprobs_are_those_of_the_distribution_drawn_from(
    models: list[Any], decoder: GuidedDecoder, temperature: float
) -> None:
    """The greedy ones, which no filter changes, are unfiltered at temperature 1."""
    out = generate(decoder, temperature=temperature, **FILTERS)
    if not temperature:
        assert torch.equal(out.sequences, generate(decoder, temperature=0.0).sequences)
    assert out.logprobs is not None and out.model_logprobs is not None
    assert out.logprobs.shape == (3, 6) and out.model_logprobs.shape == (3, 6, 3)
    assert out.logprobs.dtype == out.model_logprobs.dtype == torch.float32
    for row, prompt in enumerate(PROMPTS):
        for step, token in enumerate(out.tokens[row].tolist()):
            own = log_probs(models, torch.cat([prompt, out.tokens[row][:step]]))
            scores = (torch.tensor(WEIGHTS, dtype=torch.float64)[:, None] * own).sum(0)
            expected = filtered(scores, own[0], temperature) if temperature else scores.log_softmax(0)
            assert float(out.logprobs[row, step]) == pytest.approx(float(expected[token]), abs=2e-4)
            torch.testing.assert_close(out.model_logprobs[row, step].double(), own[:, token], atol=2e-4, rtol=0)


def test_logprobs_are_nan_after_a_rows_end_and_none_unless_asked_for(decoder: GuidedDecoder) -> None:
    free = generate(decoder)
    out = generate(decoder, eos_token_id=[int(free.tokens[0][1]), int(free.tokens[1][3])])
    assert len({len(row) for row in out.tokens}) > 1
    assert out.logprobs is not None and out.model_logprobs is not None
    for row, tokens in enumerate(out.tokens):
        for values in (out.logprobs[row], out.model_logprobs[row]):
            assert not bool(values[: len(tokens)].isnan().any())
            assert bool(values[len(tokens) :].isnan().all())
    plain = decoder.generate(PROMPTS, max_new_tokens=2)
    assert plain.logprobs is None and plain.model_logprobs is None


def pair() -> dict[str, Any]:
    return {"base": make_model("llama", seed=1), "r": make_model("llama", seed=2)}


def poisoned(module: Any, token: int) -> Any:
    """From the step after ``token`` on, a row that holds it gets NaN from ``module``."""
    with torch.no_grad():
        module.model.embed_tokens.weight[token] = torch.nan
    return module


def overflowing(module: Any) -> Any:
    """Every row gets +inf from ``module``."""
    module.lm_head.register_forward_hook(lambda _m, _a, out: out.index_fill(-1, torch.tensor([4]), torch.inf))
    return module


@pytest.mark.parametrize(
    ("stream", "penalty", "max_batch_size", "engine"),
    [("base", 1.0, 8, "auto"), ("r", 1.3, 8, "auto"), ("base", 1.3, 1, "hf"), ("r", 1.0, 2, "hf")],
)
def test_nan_from_a_model_fails_its_row_alone(stream: str, penalty: float, max_batch_size: int, engine: Any) -> None:
    clean, models = pair(), pair()
    plain = GuidedDecoder(clean["base"], {"r": clean["r"]}, engine=engine)
    settings: dict[str, Any] = {"max_new_tokens": 8, "eos_token_id": [], "repetition_penalty": penalty}
    expected = plain.generate(PROMPTS, seed=torch.tensor([3, 4, 5]), **settings)
    others = {token for row in (0, 2) for token in [*PROMPTS[row].tolist(), *expected.tokens[row].tolist()]}
    own = [*PROMPTS[1].tolist(), *expected.tokens[1].tolist()]
    step, token = next(
        (step, token)
        for step, token in enumerate(expected.tokens[1].tolist())
        if step > 0 and token not in others and own.index(token) == 11 + step
    )
    poisoned(models[stream], token)
    decoder = GuidedDecoder(models["base"], {"r": models["r"]}, max_batch_size=max_batch_size, engine=engine)
    out = decoder.generate(PROMPTS, return_logprobs=True, seed=torch.tensor([3, 4, 5]), **settings)
    assert list(out.errors) == [1]
    assert isinstance(out.errors[1], NumericalError)
    text = str(out.errors[1])
    assert "\n" not in text
    assert f"row 1, new token {step + 1}: the logits of '{stream}' hold NaN" in text
    assert out.finish_reasons == ["length", "error", "length"]
    assert out.tokens[1].tolist() == expected.tokens[1].tolist()[: step + 1], "what came before stays"
    assert out.sequences[1, -1] == 0
    assert out.logprobs is not None and bool(out.logprobs[1, step + 1 :].isnan().all())
    assert not bool(out.logprobs[1, : step + 1].isnan().any())
    without = plain.generate([PROMPTS[0], PROMPTS[2]], seed=torch.tensor([3, 5]), **settings)
    for row, alone in ((0, without.tokens[0]), (2, without.tokens[1])):
        assert torch.equal(out.tokens[row], expected.tokens[row])
        assert torch.equal(out.tokens[row], alone)


def test_every_bad_model_is_named_and_the_call_fails_when_every_row_did() -> None:
    models = {name: overflowing(model) for name, model in pair().items()}
    decoder = GuidedDecoder(models["base"], {"r": models["r"]}, max_batch_size=2)
    for penalty in (1.0, 1.3):
        with pytest.raises(NumericalError) as caught:
            decoder.generate(PROMPTS, max_new_tokens=3, repetition_penalty=penalty)
        assert "row 0, new token 0: the logits of 'base' and 'r' hold NaN or +inf" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert sorted(caught.value.rows) == [0, 1, 2]
        assert "row 2" in str(caught.value.rows[2])
    steps = decoder.stream(PROMPTS, max_new_tokens=3)
    with pytest.raises(NumericalError):
        list(steps)


def test_prompt_errors_and_decoding_errors_come_together() -> None:
    token = next(token for token in PROMPTS[1].tolist() if token not in PROMPTS[0].tolist())
    decoder = GuidedDecoder(poisoned(make_model("llama", seed=1), token))
    rows: list[Any] = [PROMPTS[0], PROMPTS[1], []]
    out = decoder.generate(rows, max_new_tokens=3, eos_token_id=[])
    assert out.finish_reasons == ["length", "error", "error"]
    assert [type(out.errors[row]).__name__ for row in (1, 2)] == ["NumericalError", "PromptError"]
    with pytest.raises(GenARMError) as caught:
        decoder.generate(rows[1:], max_new_tokens=3)
    assert sorted(caught.value.rows) == [0, 1]


def test_a_bad_model_of_weight_zero_fails_only_when_its_log_probs_are_asked_for() -> None:
    models = pair()
    decoder = GuidedDecoder(models["base"], {"r": overflowing(models["r"])})
    for penalty in (1.0, 1.3):
        settings: dict[str, Any] = {"weights": {"r": 0.0}, "max_new_tokens": 3, "repetition_penalty": penalty}
        assert not decoder.generate(PROMPTS, **settings).errors
        with pytest.raises(NumericalError, match="'r'"):
            decoder.generate(PROMPTS, return_logprobs=True, **settings)
