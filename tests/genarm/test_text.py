"""Text in, text out: prompts in every form, texts and their pieces, stop strings, several sequences per prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from chat_families import BYTE_VOCAB, byte_tokenizer
from families import make_model

import genarm
import genarm_kernels
from genarm import GenerationOutput, GuidedDecoder, InvalidArgumentError, PromptError

TOKENIZER: Any = byte_tokenizer()
CHAT = [{"role": "user", "content": "hi there"}]
SETTINGS: dict[str, Any] = {"max_new_tokens": 9, "seed": 4, "eos_token_id": []}


def make_decoder(max_batch_size: int = 8, engine: Any = "auto") -> GuidedDecoder:
    models = [make_model("llama", seed=seed, vocab=BYTE_VOCAB) for seed in (1, 2)]
    return GuidedDecoder(
        models[0], {"r": models[1]}, TOKENIZER, max_batch_size=max_batch_size, max_length=120, engine=engine
    )


@pytest.fixture(scope="module")
def writer() -> GuidedDecoder:
    return make_decoder()


def same(first: GenerationOutput, second: GenerationOutput) -> bool:
    return torch.equal(first.sequences, second.sequences) and first.texts == second.texts


def test_prompts_of_every_form_are_the_same_prompts(writer: GuidedDecoder) -> None:
    texts = ["one", "and two"]
    ids = [TOKENIZER(text)["input_ids"] for text in texts]
    padded = TOKENIZER(texts, padding=True, return_tensors="pt")
    expected = writer.generate(ids, **SETTINGS)
    for given in (texts, tuple(texts), TOKENIZER(texts), TOKENIZER(texts, padding=True), [texts[0], ids[1]]):
        assert same(writer.generate(given, **SETTINGS), expected)
    for given in (padded, dict(padded), TOKENIZER(texts, padding=True, return_tensors="np")):
        out = writer.generate(given, **SETTINGS)
        assert out.texts == expected.texts and torch.equal(
            out.sequences[:, : padded["input_ids"].shape[1]], padded["input_ids"]
        )
    alone = writer.generate(ids[:1], **SETTINGS)
    for one in ("one", ["one"], TOKENIZER("one")):
        assert same(writer.generate(one, **SETTINGS), alone)


def test_chat_goes_through_the_template(writer: GuidedDecoder) -> None:
    ids = TOKENIZER.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    expected = writer.generate([ids], **SETTINGS)
    assert same(writer.generate(CHAT, **SETTINGS), expected) and same(writer.generate([CHAT], **SETTINGS), expected)
    both = writer.generate([CHAT, [{"role": "system", "content": "be brief"}, *CHAT]], **SETTINGS)
    assert both.texts is not None and len(both.texts) == 2 and both.tokens[0].equal(expected.tokens[0])


def test_a_conversation_that_cannot_be_rendered_is_that_rows_error(writer: GuidedDecoder) -> None:
    out = writer.generate([CHAT, [{"role": "user"}], "text"], **SETTINGS)
    assert isinstance(out.errors[1], PromptError) and out.finish_reasons == ["length", "error", "length"]
    assert "row 1: a prompt holds {'role'}: a message is {'role': …, 'content': …}" in str(out.errors[1])
    with pytest.raises(PromptError, match=r"row 0: .* a message is"):
        writer.generate([{"content": "hi"}])


def test_reward_prompts_are_read_alike(writer: GuidedDecoder) -> None:
    settings = {**SETTINGS, "weights": {"r": 3.0}, "base_weight": 0.1}
    ids = [TOKENIZER("be kind: one")["input_ids"], TOKENIZER("and two")["input_ids"]]
    expected = writer.generate(["one", "and two"], reward_prompts={"r": ids}, **settings)
    for given in (["be kind: one", "and two"], TOKENIZER(["be kind: one", "and two"], padding=True)):
        assert same(writer.generate(["one", "and two"], reward_prompts={"r": given}, **settings), expected)
    assert not same(writer.generate(["one", "and two"], **settings), expected)
    out = writer.generate(["one", "and two"], reward_prompts={"r": ["x", [{"role": "user"}]]}, **settings)
    assert list(out.errors) == [1]


def test_texts_are_the_new_tokens_without_special_ones(writer: GuidedDecoder) -> None:
    printable = [0, 1, 2, *range(36, 98)]
    out = writer.generate(["one", "two"], max_new_tokens=80, allowed_tokens=printable, logit_bias={2: 2.0})
    assert out.texts is not None and out.finish_reasons == ["eos", "eos"] and max(map(len, out.texts)) > 2
    for text, tokens in zip(out.texts, out.tokens, strict=True):
        assert text == TOKENIZER.decode(tokens, skip_special_tokens=True)
    decoder = GuidedDecoder(writer.base_model)
    assert decoder.generate([[1, 5]], max_new_tokens=2).texts is None
    assert {step.texts is None for step in decoder.stream([[1, 5]], max_new_tokens=2)} == {True}
    found = genarm.generate(writer.base_model, "one", tokenizer=TOKENIZER, **SETTINGS)
    assert same(found, GuidedDecoder(writer.base_model, tokenizer=TOKENIZER).generate("one", **SETTINGS))


@pytest.mark.parametrize(("max_batch_size", "engine", "stop"), [(8, "auto", None), (2, "hf", ["e", "q"])])
def test_the_pieces_of_a_stream_are_the_texts(max_batch_size: int, engine: str, stop: Any) -> None:
    decoder = make_decoder(max_batch_size, engine)
    settings = {**SETTINGS, "max_new_tokens": 24, "stop": stop, "logit_bias": dict.fromkeys(range(68, 90), 4.0)}
    rows: Any = ["one", [], "two", "three"]
    expected, pieces = decoder.generate(rows, **settings), [""] * 4
    for step in decoder.stream(rows, **settings):
        assert step.texts is not None
        pieces = [before + piece for before, piece in zip(pieces, step.texts, strict=True)]
    assert pieces == expected.texts and expected.texts[1] == ""


def test_a_row_ends_with_its_stop_string_and_its_text_before_it(writer: GuidedDecoder) -> None:
    settings = {**SETTINGS, "max_new_tokens": 30, "allowed_tokens": list(range(36, 98))}  # printable
    free = writer.generate(["one", "two", "six"], **settings)
    assert free.texts is not None
    stop = free.texts[1][6:9]  # three tokens of one byte each
    for stops in (stop, [stop], [stop, "no such thing"]):
        out = writer.generate(["one", "two", "six"], stop=stops, return_logprobs=True, **settings)
        assert out.texts is not None and out.logprobs is not None
        assert out.finish_reasons == ["length", "stop", "length"]
        assert out.tokens[1].equal(free.tokens[1][:9]) and out.texts[1] == free.texts[1][:6]
        assert (out.texts[0], out.texts[2]) == (free.texts[0], free.texts[2]), "the other rows go on"
        assert torch.isnan(out.logprobs[1]).tolist() == [False] * 9 + [True] * 21
    ids = free.tokens[1][6:9].tolist()
    out = writer.generate(["one", "two", "six"], stop=["no such thing", ids], **settings)
    assert out.texts is not None and out.finish_reasons[1] == "stop"
    assert out.texts[1] == free.texts[1][:9], "what a sequence of ids spells stays"
    last = writer.generate(
        ["two"], stop=[stop], **{**settings, "max_new_tokens": 9, "seed": genarm_kernels.row_seeds(4, 3)[1:2]}
    )
    assert last.finish_reasons == ["stop"], "on its last token too"


def test_several_sequences_per_prompt_are_repeated_rows(writer: GuidedDecoder) -> None:
    prompts, twice = ["one", "and two"], ["one", "one", "and two", "and two"]
    per_prompt: dict[str, Any] = {
        "weights": [{"r": 1.0}, {"r": -1.0}],
        "reward_prompts": {"r": ["x", "yz"]},
        "temperature": [0.7, 1.3],
        "top_k": torch.tensor([5, 50]),
        "beta": [1.0, 2.0],
        "base_weight": torch.tensor([1.0, 0.5]),
        "logit_bias": torch.stack([torch.zeros(BYTE_VOCAB), torch.arange(BYTE_VOCAB) / 99]),
    }
    repeated: dict[str, Any] = {
        "weights": torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]),
        "reward_prompts": {"r": ["x", "x", "yz", "yz"]},
        "temperature": [0.7, 0.7, 1.3, 1.3],
        "top_k": [5, 5, 50, 50],
        "beta": [1.0, 1.0, 2.0, 2.0],
        "base_weight": [1.0, 1.0, 0.5, 0.5],
        "logit_bias": per_prompt["logit_bias"].repeat_interleave(2, 0),
    }
    expected = writer.generate(twice, **repeated, **SETTINGS)
    assert expected.texts is not None and len({*expected.texts}) == 4, "each row has a seed of its own"
    assert same(writer.generate(prompts, num_return_sequences=2, **per_prompt, **SETTINGS), expected)
    assert same(writer.generate(prompts, num_return_sequences=2, **repeated, **SETTINGS), expected)
    ids = TOKENIZER(prompts, padding=True, return_tensors="pt")
    out = writer.generate(ids["input_ids"], ids["attention_mask"], num_return_sequences=2, **per_prompt, **SETTINGS)
    assert out.texts == expected.texts
    out = writer.generate(["one", [{"role": "user"}]], num_return_sequences=2, **SETTINGS)
    assert list(out.errors) == [2, 3] and "row 3: " in str(out.errors[3])


def test_the_same_number_of_models_and_prompts_is_no_list_of_prompts() -> None:
    models = [make_model("llama", seed=seed, vocab=BYTE_VOCAB) for seed in (1, 2, 3)]
    decoder = GuidedDecoder(models[0], models[1:], TOKENIZER)
    out = decoder.generate(["a", "b"], weights=[1.0, 0.0], num_return_sequences=2, **SETTINGS)
    assert same(out, decoder.generate(["a", "a", "b", "b"], weights=[[1.0, 0.0]] * 4, **SETTINGS))


def test_a_stop_string_that_is_a_special_token_is_that_token(writer: GuidedDecoder) -> None:
    """Decoded texts are without special tokens, so that none of them would be found there."""
    settings: dict[str, Any] = {**SETTINGS, "logit_bias": {2: 60.0}}
    out = writer.generate("one", stop=["zz", "<eos>"], **settings)
    assert out.finish_reasons == ["stop"] and out.tokens[0].tolist() == [2] and out.texts == [""]
    with pytest.raises(InvalidArgumentError, match=r"special tokens such as '<eos>': give that by itself"):
        writer.generate("one", stop="\n<eos>", **SETTINGS)


def test_what_a_tokenizer_would_raise_about_is_said_in_one_line(writer: GuidedDecoder) -> None:
    out = writer.generate(["a\ud800", "b"], **SETTINGS)
    assert list(out.errors) == [0] and "holds '\\ud800', half of a surrogate pair" in str(out.errors[0])
    with pytest.raises(InvalidArgumentError, match="other lengths than its input_ids"):
        writer.generate({"input_ids": [[5, 6], [7]], "attention_mask": [[1, 1]]}, **SETTINGS)
    for call in (writer.generate, lambda prompts, **_: writer.score(prompts, "a")):
        with pytest.raises(InvalidArgumentError, match="input_ids is a int: pass token ids"):
            call({"input_ids": 5}, **SETTINGS)
