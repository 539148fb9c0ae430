"""Scores of given responses are what a plain loop finds, and what ``generate`` says of the tokens it draws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from chat_families import BYTE_VOCAB, byte_tokenizer
from families import VOCAB, left_padded, make_model, random_prompts, save_adapter, with_adapter
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers import models as models_of_tokens
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from genarm import GuidedDecoder, InvalidArgumentError, NumericalError, PromptError, ScoreOutput
from genarm.engine import score
from genarm_kernels import reference

PROMPTS = random_prompts([6, 11, 1, 8], seed=1)
FILTERS: dict[str, Any] = {
    "temperature": torch.tensor([1.0, 0.7, 0.0, 1.6]),
    "top_k": torch.tensor([0, 60, 3, 80]),
    "top_p": torch.tensor([1.0, 0.97, 0.5, 1.0]),
    "min_p": torch.tensor([0.0, 0.0, 0.3, 1e-4]),
    "base_min_p": torch.tensor([0.0, 1e-3, 0.2, 0.0]),
    "base_top_p": torch.tensor([1.0, 1.0, 0.5, 0.999]),
}
PENALTIES: dict[str, Any] = {
    "repetition_penalty": [1.0, 1.3, 1.1, 0.8],
    "logit_bias": {7: 1.5, 11: -2.0},
    "allowed_tokens": list(range(2, 95)),
}
WEIGHTS: dict[str, Any] = {
    "weights": [{"a": 1.0}, {"a": -0.7, "b": 2.0}, {"b": 0.5}, {}],
    "beta": [1.0, 2.0, 0.5, 1.0],
    "base_weight": [1.0, 0.3, 1.0, -0.5],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any], list[Any]]:
    """A base, its reward models, and all three as plain models."""
    base, other = make_model("llama", seed=1), make_model("gpt2", seed=2)
    folder = save_adapter(base, "llama", tmp_path_factory.mktemp("scoring") / "adapter", seed=3)
    return base, {"a": str(folder), "b": other}, [base, with_adapter(base, folder), other]


def make_decoder(models: Any, **settings: Any) -> GuidedDecoder:
    return GuidedDecoder(models[0], models[1], **settings)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5, equal_nan=True, check_dtype=False)


@pytest.mark.parametrize(
    ("engine", "options"), [("auto", {}), ("auto", FILTERS), ("auto", FILTERS | PENALTIES), ("hf", FILTERS)]
)
def test_drawn_tokens_have_the_log_probabilities_that_generate_gives_them(
    models: Any, engine: str, options: dict[str, Any]
) -> None:
    decoder = make_decoder(models, engine=engine, max_batch_size=3)
    shared = {**WEIGHTS, **options, "reward_prompts": {"b": random_prompts([3, 5, 9, 2], seed=7)}}
    drawn = decoder.generate(PROMPTS, max_new_tokens=12, seed=2, return_logprobs=True, **shared)
    found = decoder.score(PROMPTS, drawn.tokens, **shared)
    assert drawn.logprobs is not None and drawn.model_logprobs is not None
    close(found.logprobs, drawn.logprobs)
    close(found.model_logprobs, drawn.model_logprobs)
    assert found.model_names == ("base", "a", "b") and not found.errors
    close(found.totals, drawn.logprobs.double().nansum(1))
    close(found.model_totals, drawn.model_logprobs.double().nansum(1))
    assert found.totals.dtype == torch.float64 and found.logprobs.dtype == torch.float32
    if not options:
        assert not bool(found.greedy.any())
        likeliest = decoder.generate(PROMPTS, max_new_tokens=12, temperature=0.0, **shared).tokens
        assert bool(decoder.score(PROMPTS, likeliest, temperature=0.0, **shared).greedy.all())


@pytest.mark.parametrize("temperature", [0.0, [0.0, 1.0, 0.0, 1.0]])
def test_greedy_is_what_temperature_zero_draws_behind_the_filters_of_the_base(models: Any, temperature: Any) -> None:
    decoder, shared = make_decoder(models), {**WEIGHTS, "base_min_p": [0.9, 0.9, 0.6, 0.6]}
    likeliest = decoder.generate(PROMPTS, max_new_tokens=6, temperature=0.0, **shared).tokens
    assert bool(decoder.score(PROMPTS, likeliest, temperature=temperature, **shared).greedy.all())
    other = [torch.cat([row[:-1], (row[-1:] + 1) % VOCAB]) for row in likeliest]
    assert not bool(decoder.score(PROMPTS, other, temperature=temperature, **shared).greedy.any())


def test_given_tokens_have_the_log_probabilities_of_the_plain_loop_in_float64(models: Any) -> None:
    responses = random_prompts([5, 9, 20, 1], seed=4)
    found = make_decoder(models).score(PROMPTS, responses, weights={"a": 0.8, "b": -0.4}, base_min_p=0.002, top_k=50)
    weights = torch.tensor([1.0, 0.8, -0.4])
    for row, (prompt, response) in enumerate(zip(PROMPTS, responses, strict=True)):
        ids = torch.cat([prompt, response])[None]
        with torch.no_grad():
            logits = [model(input_ids=ids).logits[0, len(prompt) - 1 : -1] for model in models[2]]
        table = reference.guided_log_probs(logits, weights, base_min_p=0.002, top_k=50)
        expected = table.gather(1, response[:, None])[:, 0]
        close(found.logprobs[row, : len(response)].double(), expected)
        assert bool(torch.isnan(found.logprobs[row, len(response) :]).all())
        own = torch.stack([z.double().log_softmax(1).gather(1, response[:, None])[:, 0] for z in logits], 1)
        close(found.model_logprobs[row, : len(response)].double(), own)
        close(found.totals[row], expected.sum())
    assert -math.inf in found.logprobs.flatten().tolist(), "a filter excludes one of these"
    assert found.totals.isneginf().any()


def test_a_score_depends_neither_on_its_batch_nor_on_the_memory_there_is(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    responses = random_prompts([5, 9, 20, 1], seed=4)
    decoder = make_decoder(models, max_batch_size=None)
    expected = decoder.score(PROMPTS, responses)
    monkeypatch.setattr(score, "BLOCK_BYTES", 4 * VOCAB * 4 * 7 * 3)  # three tokens of a row at once
    asked: list[int] = []

    def fits(batch: int, length: int) -> bool:
        asked.append(batch)
        return batch < 2

    monkeypatch.setattr(decoder.engine, "fits", fits)
    found = decoder.score(PROMPTS, responses)
    assert 4 in asked and same(found, expected)
    assert same(make_decoder(models, max_batch_size=2).score(*left_padded_input()), expected)


def left_padded_input() -> tuple[Any, list[Tensor]]:
    ids, mask = left_padded(PROMPTS)
    return {"input_ids": ids, "attention_mask": mask}, random_prompts([5, 9, 20, 1], seed=4)


def same(found: ScoreOutput, expected: ScoreOutput) -> bool:
    close(found.logprobs, expected.logprobs)
    close(found.model_logprobs, expected.model_logprobs)
    close(found.totals, expected.totals)
    return found.greedy.equal(expected.greedy)


def test_a_failed_row_costs_no_other_its_scores() -> None:
    base = make_model("llama", seed=1)
    expected = GuidedDecoder(base).score(PROMPTS, [[5, 6, 7]] * 4)
    with torch.no_grad():
        base.model.embed_tokens.weight[96] = torch.nan
    decoder = GuidedDecoder(base, max_length=30)
    responses = [[5, 6, 7], [5, 96, 7, 8], [5, 97], list(range(3, 33)), [5, 6, 7], []]
    found = decoder.score([*PROMPTS, [], [4]], responses)
    assert list(found.errors) == [1, 2, 3, 4]
    assert isinstance(found.errors[1], NumericalError) and "row 1, response token 2: the logits of 'base'" in str(
        found.errors[1]
    )
    assert "the response holds token id 97, outside the vocabulary of 97" in str(found.errors[2])
    assert "row 3: prompt and response have 38 tokens, over max_length = 30" in str(found.errors[3])
    assert isinstance(found.errors[4], PromptError)
    close(found.logprobs[0, :3], expected.logprobs[0])
    assert bool(torch.isnan(found.totals[1:5]).all()) and float(found.totals[5]) == 0.0 and bool(found.greedy[5])
    with pytest.raises(NumericalError, match="row 0, response token 0: every token is masked out"):
        decoder.score([[5]], [[6]], logit_bias=torch.full((VOCAB,), -math.inf))


def test_text_is_scored_as_the_tokens_that_spell_it() -> None:
    tokenizer: Any = byte_tokenizer()
    base = make_model("llama", seed=1, vocab=BYTE_VOCAB)
    decoder = GuidedDecoder(base, tokenizer=tokenizer)
    out = decoder.generate("one", num_return_sequences=3, max_new_tokens=8, allowed_tokens=list(range(36, 98)))
    assert out.texts is not None
    found = decoder.score("one", out.texts)  # one prompt before all of them
    assert all(map(torch.equal, found.tokens, out.tokens))
    assert same(found, decoder.score(["one"] * 3, out.tokens))
    ended = decoder.score("one", out.texts[0] + "<eos>")
    assert ended.tokens[0].tolist() == [*out.tokens[0].tolist(), 2]
    assert same(decoder.score([[5, 6]], out.tokens), decoder.score(torch.tensor([[5, 6]]).numpy(), out.tokens))
    padded = torch.tensor([[40, 41, 0], [42, 0, 0]])
    for given in (padded, padded.numpy()):
        assert [row.tolist() for row in decoder.score("one", given).tokens] == [[40, 41], [42]]
    with pytest.raises(PromptError, match="half of a surrogate pair"):
        decoder.score("one", "\ud800")
    chat = [{"role": "user", "content": "hi"}]
    assert decoder.score(chat, "yes").totals.shape == decoder.score(tokenizer("x"), "yes").totals.shape == (1,)


def test_an_end_that_is_written_out_leaves_the_words_before_it_as_they_are() -> None:
    """Llama 2's way: a text by itself begins with a space, one behind a prompt has it only where it is written."""
    words = {word: place for place, word in enumerate(["<unk>", "<s>", "</s>", "▁", "a", "b"])}
    inner = Tokenizer(models_of_tokens.BPE(words, [], unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    decoder = GuidedDecoder(make_model("llama", seed=1), tokenizer=tokenizer)
    found = decoder.score("a", ["b", "b</s>", " b</s>", "</s>", "b</s>a"]).tokens
    assert [row.tolist() for row in found] == [[5], [5, 2], [3, 5, 2], [2], [5, 2, *tokenizer("a")["input_ids"]]]


def test_what_cannot_be_scored_is_refused_in_one_line(models: Any) -> None:
    decoder = make_decoder(models)
    for responses, options, cause in (
        ([[5]], {}, "1 responses were given for 4 prompts"),
        ("yes", {}, "responses is text and the decoder has no tokenizer"),
        ([], {}, "responses is []"),
        ([[5]] * 4, {"seed": 1}, "score() has no argument 'seed'"),
        ([[5.0]] * 4, {}, "responses[0] has dtype"),
        (None, {}, "responses is None"),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            decoder.score(PROMPTS if responses != "yes" else [[5]], responses, **options)  # type: ignore[arg-type]
        assert cause in str(caught.value) and "\n" not in str(caught.value)
