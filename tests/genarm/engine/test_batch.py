"""Log-probabilities against an independent float64 computation, and rows that fail while the others go on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import VOCAB, make_model, random_prompts
from torch import Tensor

from genarm import GenARMError, GenerationOutput, GuidedDecoder, NumericalError

PROMPTS = random_prompts([6, 11, 3], seed=1)
WEIGHTS = [1.0, 0.8, -0.5]


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


def filtered(scores: Tensor, base: Tensor, temperature: float, options: dict[str, Any]) -> Tensor:
    """[V] float64 log-probabilities by the contract's order: the base's filters, temperature, top-k, top-p, min-p."""
    keep = torch.ones_like(scores, dtype=torch.bool)
    if "base_min_p" in options:
        keep &= base.exp() >= options["base_min_p"] * base.exp().max()
    scores = torch.where(keep, scores, -torch.inf) / temperature
    if "top_k" in options:
        scores = scores.masked_fill(scores < scores.topk(options["top_k"]).values[-1], -torch.inf)
    if "top_p" in options:
        ordered, ids = scores.softmax(0).sort(descending=True)
        scores[ids[ordered.cumsum(0) - ordered >= options["top_p"]]] = -torch.inf
    if "min_p" in options:
        probs = scores.softmax(0)
        scores = scores.masked_fill(probs < options["min_p"] * probs.max(), -torch.inf)
    return scores.log_softmax(0)


@pytest.mark.parametrize(
    ("temperature", "options"),
    [
        (1.0, {}),
        (1.6, {}),
        (0.5, {"top_k": 9}),
        (1.3, {"top_k": 30, "top_p": 0.8, "min_p": 0.02, "base_min_p": 0.05}),
    ],
)
def test_logprobs_are_those_of_the_distribution_drawn_from(
    models: list[Any], decoder: GuidedDecoder, temperature: float, options: dict[str, Any]
) -> None:
    out = generate(decoder, temperature=temperature, **options)
    assert out.logprobs is not None and out.model_logprobs is not None
    assert out.logprobs.shape == (3, 6) and out.model_logprobs.shape == (3, 6, 3)
    assert out.logprobs.dtype == out.model_logprobs.dtype == torch.float32
    for row, prompt in enumerate(PROMPTS):
        for step, token in enumerate(out.tokens[row].tolist()):
            own = log_probs(models, torch.cat([prompt, out.tokens[row][:step]]))
            scores = (torch.tensor(WEIGHTS, dtype=torch.float64)[:, None] * own).sum(0)
            expected = filtered(scores, own[0], temperature, options)[token]
            assert float(out.logprobs[row, step]) == pytest.approx(float(expected), abs=2e-4)
            torch.testing.assert_close(out.model_logprobs[row, step].double(), own[:, token], atol=2e-4, rtol=0)


def test_greedy_logprobs_are_unfiltered_at_temperature_one(models: list[Any], decoder: GuidedDecoder) -> None:
    out = generate(decoder, temperature=0.0, top_k=3, top_p=0.5, min_p=0.5)
    assert torch.equal(out.sequences, generate(decoder, temperature=0.0).sequences)
    assert out.logprobs is not None
    for row, prompt in enumerate(PROMPTS):
        for step, token in enumerate(out.tokens[row].tolist()):
            own = log_probs(models, torch.cat([prompt, out.tokens[row][:step]]))
            expected = (torch.tensor(WEIGHTS, dtype=torch.float64)[:, None] * own).sum(0).log_softmax(0)[token]
            assert float(out.logprobs[row, step]) == pytest.approx(float(expected), abs=2e-4)


def test_bias_and_penalty_are_in_logprobs_and_not_in_model_logprobs(models: list[Any], decoder: GuidedDecoder) -> None:
    banned = [token for token in range(VOCAB) if token % 3]
    out = generate(decoder, logit_bias=dict.fromkeys(banned, -torch.inf), repetition_penalty=1.2)
    assert out.logprobs is not None and out.model_logprobs is not None
    prompt = PROMPTS[0]
    with torch.no_grad():
        logits = torch.stack([model(input_ids=prompt[None]).logits[0, -1].double() for model in models])
    scores = (torch.tensor(WEIGHTS, dtype=torch.float64)[:, None] * logits).sum(0)
    seen = torch.zeros(VOCAB, dtype=torch.bool)
    seen[prompt] = True
    scores = torch.where(seen, torch.where(scores < 0, scores * 1.2, scores / 1.2), scores)
    scores[banned] = -torch.inf
    token = int(out.tokens[0][0])
    assert float(out.logprobs[0, 0]) == pytest.approx(float(scores.log_softmax(0)[token]), abs=2e-4)
    torch.testing.assert_close(out.model_logprobs[0, 0].double(), logits.log_softmax(-1)[:, token], atol=2e-4, rtol=0)


def test_token_rewards_are_there_for_models_of_weight_zero(models: list[Any], decoder: GuidedDecoder) -> None:
    out = generate(decoder, weights={"a": 0.0, "b": 0.0})
    assert out.model_logprobs is not None and out.logprobs is not None
    own = log_probs(models, PROMPTS[0])[:, int(out.tokens[0][0])]
    torch.testing.assert_close(out.model_logprobs[0, 0].double(), own, atol=2e-4, rtol=0)
    torch.testing.assert_close(out.logprobs, out.model_logprobs[..., 0], atol=1e-5, rtol=0)


def test_a_padded_vocabulary_is_in_no_normaliser() -> None:
    base, reward = make_model("llama", seed=1), make_model("llama", seed=2, vocab=104)
    out = GuidedDecoder(base, [reward]).generate(PROMPTS, max_new_tokens=1, return_logprobs=True)
    assert out.model_logprobs is not None
    with torch.no_grad():
        logits = reward(input_ids=PROMPTS[0][None]).logits[0, -1, :VOCAB].double()
    expected = logits.log_softmax(0)[int(out.tokens[0][0])]
    assert float(out.model_logprobs[0, 0, 1]) == pytest.approx(float(expected), abs=2e-4)


def test_logprobs_are_nan_after_a_rows_end_and_none_unless_asked_for(decoder: GuidedDecoder) -> None:
    free = generate(decoder)
    out = generate(decoder, eos_token_id=[int(free.tokens[0][1]), int(free.tokens[1][3])])
    assert len({len(row) for row in out.tokens}) > 1
    assert out.logprobs is not None and out.model_logprobs is not None
    for row, tokens in enumerate(out.tokens):
        assert not bool(out.logprobs[row, : len(tokens)].isnan().any())
        assert bool(out.logprobs[row, len(tokens) :].isnan().all())
        assert not bool(out.model_logprobs[row, : len(tokens)].isnan().any())
        assert bool(out.model_logprobs[row, len(tokens) :].isnan().all())
    plain = decoder.generate(PROMPTS, max_new_tokens=2)
    assert plain.logprobs is None and plain.model_logprobs is None


def poisoned(module: Any, token: int, value: float = torch.nan) -> Any:
    """From the step after ``token`` on, a row that holds it gets bad logits from ``module``."""
    with torch.no_grad():
        if value == value:  # +inf: only the head
            module.lm_head.register_forward_hook(
                lambda _m, _a, out: out.clone().index_fill_(-1, torch.tensor([4]), value)
            )
        else:
            module.model.embed_tokens.weight[token] = value
    return module


@pytest.mark.parametrize("stream", ["base", "r"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("max_batch_size", [1, 8])
def test_nan_from_a_model_fails_its_row_alone(stream: str, penalty: float, max_batch_size: int) -> None:
    clean = GuidedDecoder(make_model("llama", seed=1), {"r": make_model("llama", seed=2)})
    settings: dict[str, Any] = {
        "max_new_tokens": 8, "seed": torch.tensor([3, 4, 5]), "eos_token_id": [], "repetition_penalty": penalty
    }  # fmt: skip
    expected = clean.generate(PROMPTS, **settings)
    others = {token for row in (0, 2) for token in [*PROMPTS[row].tolist(), *expected.tokens[row].tolist()]}
    own = [*PROMPTS[1].tolist(), *expected.tokens[1].tolist()]
    step, token = next(
        (step, token)
        for step, token in enumerate(expected.tokens[1].tolist())
        if step > 0 and token not in others and own.index(token) == 11 + step
    )
    base, reward = make_model("llama", seed=1), make_model("llama", seed=2)
    poisoned({"base": base, "r": reward}[stream], token)
    out = GuidedDecoder(base, {"r": reward}, max_batch_size=max_batch_size).generate(
        PROMPTS, return_logprobs=True, **settings
    )
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
    for row in (0, 2):
        assert torch.equal(out.tokens[row], expected.tokens[row])
    without = clean.generate([PROMPTS[0], PROMPTS[2]], **{**settings, "seed": torch.tensor([3, 5])})
    assert torch.equal(out.tokens[0], without.tokens[0])
    assert torch.equal(out.tokens[2], without.tokens[1])


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_every_bad_model_is_named_and_the_call_fails_when_every_row_did(penalty: float) -> None:
    base, reward = make_model("llama", seed=1), make_model("llama", seed=2)
    poisoned(base, 0, torch.inf)
    poisoned(reward, 0, torch.inf)
    decoder = GuidedDecoder(base, {"r": reward}, max_batch_size=2)
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
    base = make_model("llama", seed=1)
    poisoned(base, next(token for token in PROMPTS[1].tolist() if token not in PROMPTS[0].tolist()))
    rows = [PROMPTS[0], PROMPTS[1], []]
    out = GuidedDecoder(base).generate(rows, max_new_tokens=3, eos_token_id=[])  # type: ignore[arg-type]
    assert out.finish_reasons == ["length", "error", "error"]
    assert [type(out.errors[row]).__name__ for row in (1, 2)] == ["NumericalError", "PromptError"]
    with pytest.raises(GenARMError) as caught:
        GuidedDecoder(base).generate(rows[1:], max_new_tokens=3)  # type: ignore[arg-type]
    assert sorted(caught.value.rows) == [0, 1]


def test_a_bad_model_of_weight_zero_fails_only_when_its_log_probs_are_asked_for() -> None:
    base, reward = make_model("llama", seed=1), make_model("llama", seed=2)
    poisoned(reward, 0, torch.inf)
    decoder = GuidedDecoder(base, {"r": reward})
    for penalty in (1.0, 1.3):
        settings: dict[str, Any] = {"weights": {"r": 0.0}, "max_new_tokens": 3, "repetition_penalty": penalty}
        assert not decoder.generate(PROMPTS, **settings).errors
        with pytest.raises(NumericalError, match="'r'"):
            decoder.generate(PROMPTS, return_logprobs=True, **settings)
