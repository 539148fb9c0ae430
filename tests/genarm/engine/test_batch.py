"""What a batch comes to where its rows end apart, and where some of them fail while the others go on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import make_model, random_prompts

from genarm import GenARMError, GuidedDecoder, NumericalError

PROMPTS = random_prompts([6, 11, 3], seed=1)


def test_logprobs_are_nan_after_a_rows_end_and_none_unless_asked_for(decoder: GuidedDecoder) -> None:
    common: dict[str, Any] = {"max_new_tokens": 6, "seed": 5, "return_logprobs": True}
    free = decoder.generate(PROMPTS, eos_token_id=[], **common)
    out = decoder.generate(PROMPTS, eos_token_id=[int(free.tokens[0][1]), int(free.tokens[1][3])], **common)
    assert len({len(row) for row in out.tokens}) > 1
    assert out.logprobs is not None and out.model_logprobs is not None
    for row, tokens in enumerate(out.tokens):
        for values in (out.logprobs[row], out.model_logprobs[row]):
            assert not bool(values[: len(tokens)].isnan().any())
            assert bool(values[len(tokens) :].isnan().all())
    plain = decoder.generate(PROMPTS, max_new_tokens=2)
    assert plain.logprobs is None and plain.model_logprobs is None


def fresh() -> dict[str, Any]:
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
    clean, models = fresh(), fresh()
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
    models = {name: overflowing(model) for name, model in fresh().items()}
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
    models = fresh()
    decoder = GuidedDecoder(models["base"], {"r": overflowing(models["r"])})
    for penalty in (1.0, 1.3):
        settings: dict[str, Any] = {"weights": {"r": 0.0}, "max_new_tokens": 3, "repetition_penalty": penalty}
        assert not decoder.generate(PROMPTS, **settings).errors
        with pytest.raises(NumericalError, match="'r'"):
            decoder.generate(PROMPTS, return_logprobs=True, **settings)


def test_some_rows_of_a_request_are_a_request() -> None:
    """In any order, with their errors, one of them twice."""
    decoder = GuidedDecoder(make_model("llama", seed=1), max_batch_size=2)
    prompts = [*random_prompts([4, 7, 3, 9], seed=1), torch.empty(0, dtype=torch.int64)]
    options: dict[str, Any] = {"max_new_tokens": 5, "eos_token_id": [], "seed": torch.arange(5)}
    request = decoder.prepare(prompts, **options)
    whole = decoder.run(request)
    some = decoder.run(request.rows([3, 4, 1, 3]))
    assert [tokens.tolist() for tokens in some.tokens] == [whole.tokens[row].tolist() for row in (3, 4, 1, 3)]
    assert some.finish_reasons == ["length", "error", "length", "length"] and list(some.errors) == [1]
