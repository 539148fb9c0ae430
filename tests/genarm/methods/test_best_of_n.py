"""Best-of-N against its definition, written out: one draw, one token, one whole text at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import make_model, random_prompts, word_tokenizer
from method_cases import STEPS, assert_same_rows, make_scorer, next_logits, score_of
from torch import nn

import genarm_kernels
from genarm import GuidedDecoder, methods
from genarm.errors import InvalidArgumentError, NumericalError
from genarm.methods.draws import attempt_seed

FILTERS: dict[str, Any] = {"temperature": 1.7, "top_k": 20, "top_p": 0.95}


def one_draw(base: Any, prompt: list[int], seed: int) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < STEPS and 2 not in tokens:
        text = [*prompt, *tokens]
        sample = genarm_kernels.reference.guided_sample(
            [next_logits(base, text)[None]],
            torch.ones(1),
            seed=torch.tensor([seed]),
            position=torch.tensor([len(text)]),
            **FILTERS,
        )
        tokens.append(int(sample.tokens))
    return tokens


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_best_of_n_is_its_definition(family: str) -> None:
    base, scorer = make_model(family), make_scorer(family, seed=7)
    prompts = [prompt.tolist() for prompt in random_prompts([5, 9, 3])]
    decoder = GuidedDecoder(base, max_batch_size=6)
    out = methods["best_of_n"].generate(
        decoder, prompts, trajectory_rm=scorer, draws=3, seed=3, max_new_tokens=STEPS, **FILTERS
    )
    expected, read = [], 0
    for prompt, seed in zip(prompts, genarm_kernels.row_seeds(3, 3).tolist(), strict=True):
        drawn = [one_draw(base, prompt, attempt_seed(seed, attempt)) for attempt in range(3)]
        expected.append(max(drawn, key=lambda own: score_of(scorer, [*prompt, *own])))
        read += sum(map(len, drawn))
    assert_same_rows(out, expected)
    for row, prompt in enumerate(prompts):
        assert float(out.scores[row]) == pytest.approx(score_of(scorer, [*prompt, *expected[row]]), abs=1e-3)
    prompt_tokens = sum(map(len, prompts))  # each once, for all of its draws
    assert out.stats.forwarded == {"base": prompt_tokens + read - 9, "trajectory_rm": prompt_tokens + read}


def test_one_draw_is_plain_decoding_and_a_row_depends_on_no_other() -> None:
    decoder = GuidedDecoder(make_model("llama"), tokenizer=word_tokenizer())
    prompts, scorer = random_prompts([4, 7]), make_scorer("llama", seed=7)
    options: dict[str, Any] = {
        "max_new_tokens": 5,
        "stop": [f"w{n}" for n in range(3, 90, 5)],
        "return_logprobs": True,
        "top_k": 30,
    }
    plain = decoder.generate(prompts, num_return_sequences=2, seed=5, **options)
    one = methods["best_of_n"].generate(
        decoder, prompts, trajectory_rm=scorer, draws=1, num_return_sequences=2, seed=5, **options
    )
    assert_same_rows(one, [row.tolist() for row in plain.tokens])
    assert one.texts == plain.texts and one.finish_reasons == plain.finish_reasons
    assert torch.equal(one.sequences, plain.sequences)
    torch.testing.assert_close(one.logprobs, plain.logprobs, equal_nan=True)
    torch.testing.assert_close(one.model_logprobs, plain.model_logprobs, equal_nan=True)

    both = methods["best_of_n"].generate(decoder, prompts, trajectory_rm=scorer, draws=5, seed=[11, 12], **options)
    alone = methods["best_of_n"].generate(decoder, prompts[1:], trajectory_rm=scorer, draws=5, seed=[12], **options)
    assert both.tokens[1].tolist() == alone.tokens[0].tolist() and float(both.scores[1]) == float(alone.scores[0])
    seeds = [attempt_seed(12, attempt) for attempt in range(5)]
    each = decoder.generate([prompts[1]] * 5, seed=seeds, **options)
    assert "stop" in each.finish_reasons
    drawn = [own.tolist() for own in each.tokens]
    best = max(drawn, key=lambda own: score_of(scorer, [*prompts[1].tolist(), *own]))
    assert alone.tokens[0].tolist() == best and alone.finish_reasons[0] == each.finish_reasons[drawn.index(best)]
    assert alone.stats.forwarded["trajectory_rm"] == len(prompts[1]) + sum(map(len, drawn))


def test_a_failed_draw_fails_its_row_alone() -> None:
    base = make_model("llama")
    options: dict[str, Any] = {"draws": 3, "max_new_tokens": 4, "eos_token_id": []}
    clean = methods["best_of_n"].generate(
        GuidedDecoder(base), [[5, 6, 7], [8, 9]], trajectory_rm=make_scorer("llama", seed=7), seed=1, **options
    )
    poisoned = int(clean.tokens[0][0])
    assert poisoned not in clean.tokens[1].tolist()
    with torch.no_grad():
        embedding: nn.Embedding = base.get_input_embeddings()
        embedding.weight[poisoned] = torch.nan
    prompts: list[list[int]] = [[5, 6, 7], [8, 9], []]
    out = methods["best_of_n"].generate(
        GuidedDecoder(base), prompts, trajectory_rm=make_scorer("llama", seed=7), seed=1, **options
    )
    assert list(out.errors) == [0, 2] and out.finish_reasons == ["error", "length", "error"]
    with pytest.raises(NumericalError, match=r"row 0, draw \d, new token 1: the logits of 'base' hold NaN"):
        raise out.errors[0]
    assert out.tokens[1].tolist() == clean.tokens[1].tolist() and bool(
        out.scores.isnan().tolist() == [True, False, True]
    )


def test_what_best_of_n_cannot_do_is_refused() -> None:
    decoder = GuidedDecoder(make_model("llama"))
    for wrong in ({"draws": 0}, {"streamer": None}, {"weights": {}}, {"guide_when": None}):
        with pytest.raises(InvalidArgumentError, match=r"draws is 0|does not take"):
            methods["best_of_n"].generate(decoder, [[5]], trajectory_rm=make_scorer("llama"), **wrong)
