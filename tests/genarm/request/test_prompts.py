"""Prompts: padded on either side or in lists, stripped for the models, given back as they came; bad rows named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import left_padded, make_model, random_prompts, right_padded

from genarm import GenARMError, GuidedDecoder, InvalidArgumentError, PromptError
from genarm.request.prompts import read_prompts

CPU = torch.device("cpu")
PROMPTS = random_prompts([6, 11, 1], seed=1)


@pytest.fixture(scope="module")
def decoder() -> GuidedDecoder:
    return GuidedDecoder(make_model("llama", seed=1), {"r": make_model("llama", seed=2, hidden=16)}, max_length=40)


def assert_one_line(error: BaseException, *parts: str) -> None:
    text = str(error)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def test_prompts_are_read_from_every_form_of_them() -> None:
    masked = torch.tensor([[0, 1, 0, 1]])
    ids = torch.tensor([[4, 5, 6, 7]])
    forms: list[tuple[Any, ...]] = [
        left_padded(PROMPTS),
        right_padded(PROMPTS),
        (PROMPTS, None),
        ([row.tolist() for row in PROMPTS], None),
        ([row.int() for row in PROMPTS], None),
        ([row.numpy() for row in PROMPTS], None),
        (tuple(PROMPTS), None),
    ]
    for form in forms:
        prompts = read_prompts(*form, 0, CPU)
        assert all(map(torch.equal, prompts.rows, PROMPTS))
        assert prompts.lengths == [6, 11, 1]
        assert torch.equal(prompts.columns, form[0] if isinstance(form[0], torch.Tensor) else forms[0][0])
    for dtype in (torch.int64, torch.float32, torch.bool):  # a mask may have holes
        assert read_prompts(ids, masked.to(dtype), 0, CPU).rows[0].tolist() == [5, 7]


def test_sequences_are_the_prompt_columns_as_given_then_new_tokens_then_padding(decoder: GuidedDecoder) -> None:
    prompts = [row.clone() for row in PROMPTS]
    prompts[0][2] = 0  # the pad id is an ordinary token where the mask says so
    for padding, pad in ((left_padded, 0), (right_padded, 0), (left_padded, 55), (right_padded, 10**6)):
        ids, mask = padding(prompts, pad)
        out = decoder.generate(ids, mask, max_new_tokens=8, seed=4, eos_token_id=list(range(3, 60)))
        width = max(len(row) for row in out.tokens)
        assert out.sequences.shape == (3, ids.shape[1] + width)
        assert out.sequences.dtype == torch.int64
        assert torch.equal(out.sequences[:, : ids.shape[1]], ids)
        for row, tokens in zip(out.sequences[:, ids.shape[1] :], out.tokens, strict=True):
            assert torch.equal(row[: len(tokens)], tokens)
            assert bool((row[len(tokens) :] == 0).all())
        assert len({len(row) for row in out.tokens}) > 1, "rows are to end at different lengths"


@pytest.mark.parametrize(
    ("input_ids", "mask", "cause"),
    [
        (torch.tensor([[3.0, 4.0]]), None, "float32"),
        (torch.tensor([[True, False]]), None, "bool"),
        (torch.tensor([3, 4]), None, "unsqueeze(0)"),
        (torch.empty(0, 4, dtype=torch.int64), None, "empty batch"),
        ([], None, "empty batch"),
        ([3, 4], None, "flat list"),
        ([["a", "b"]], None, "input_ids[0]"),
        ([[2**70]], None, "input_ids[0]"),
        ([[[3, 4]]], None, "1-D"),
        ("a prompt", None, "input_ids is text and the decoder has no tokenizer"),
        ([{"role": "user", "content": "hi"}], None, "no tokenizer"),
        ({"ids": [3]}, None, "a dict of 'ids'"),
        ({"input_ids": [3], "pixel_values": [1]}, None, "'pixel_values', which guided decoding does not read"),
        ({"input_ids": [3], "attention_mask": [1]}, torch.ones(1, 1), "beside the one in input_ids"),
        (torch.tensor([[3, 4]]), torch.ones(1, 3), "[1, 3]"),
        (torch.tensor([[3, 4]]), [[1, 1]], "list"),
        ([[3, 4]], torch.ones(1, 2), "list of prompts"),
        (torch.zeros(1, 2, dtype=torch.int64, device="meta"), None, "meta"),
        (torch.tensor([[3, 4]]), torch.ones(1, 2, device="meta"), "meta"),
    ],
)
def test_prompts_of_the_wrong_kind_are_refused_in_one_line(
    decoder: GuidedDecoder, input_ids: Any, mask: Any, cause: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        decoder.generate(input_ids, mask, max_new_tokens=2)
    assert_one_line(caught.value, cause, ":")


BAD_ROWS: list[tuple[list[int], str]] = [
    ([], "row 1: the base prompt is empty"),
    (list(range(3, 38)), "row 1: the base prompt has 35 tokens, with 6 new ones over max_length = 40"),
    ([5, 97, 6], "row 1: the base prompt holds token id 97, outside its vocabulary of 97"),
    ([5, -1, 6], "row 1: the base prompt holds token id -1"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS)
def test_a_bad_row_is_an_error_row_and_the_others_finish(decoder: GuidedDecoder, bad: list[int], message: str) -> None:
    good = random_prompts([6, 9], seed=2)
    seeds = torch.tensor([11, 12, 13])
    out = decoder.generate([good[0], bad, good[1]], max_new_tokens=6, seed=seeds, return_logprobs=True, eos_token_id=[])
    assert list(out.errors) == [1]
    assert isinstance(out.errors[1], PromptError)
    assert_one_line(out.errors[1], message)
    assert out.finish_reasons == ["length", "error", "length"]
    assert out.tokens[1].tolist() == []
    width = max(len(bad), 9)
    assert out.sequences[1].tolist() == [0] * (width - len(bad)) + bad + [0] * 6
    without = decoder.generate(good, max_new_tokens=6, seed=seeds[[0, 2]], eos_token_id=[])
    assert torch.equal(out.tokens[0], without.tokens[0])
    assert torch.equal(out.tokens[2], without.tokens[1])
    assert out.logprobs is not None and out.model_logprobs is not None
    assert bool(out.logprobs[1].isnan().all()) and bool(out.model_logprobs[1].isnan().all())
    assert not bool(out.logprobs[[0, 2]].isnan().any())
    assert out.stats.prompt_tokens == 15


def test_the_call_fails_with_all_errors_when_every_row_is_bad(decoder: GuidedDecoder) -> None:
    rows = [bad for bad, _ in BAD_ROWS]
    for call in (decoder.generate, decoder.stream):
        with pytest.raises(PromptError) as caught:
            call(rows, max_new_tokens=6)
        assert sorted(caught.value.rows) == [0, 1, 2, 3]
        assert all(isinstance(error, GenARMError) for error in caught.value.rows.values())
        assert_one_line(caught.value, "row 0: the base prompt is empty")
    for empty in (torch.empty(2, 0, dtype=torch.int64), torch.ones(2, 2, dtype=torch.int64)):
        with pytest.raises(PromptError):  # without columns, or with none that the mask leaves
            decoder.generate(empty, torch.zeros_like(empty), max_new_tokens=2)
    assert not decoder.generate([list(range(3, 37))], max_new_tokens=6).errors, "34 and 6 tokens are 40"


def test_a_reward_prompt_is_checked_as_the_base_prompt_is(decoder: GuidedDecoder) -> None:
    prompts = random_prompts([6, 9, 4], seed=3)
    out = decoder.generate(prompts, reward_prompts={"r": [[5, 6], [], list(range(3, 40))]}, max_new_tokens=6)
    assert_one_line(out.errors[1], "row 1: the r prompt is empty")
    assert_one_line(out.errors[2], "row 2: the r prompt has 37 tokens")
    assert out.finish_reasons[0] != "error"


def test_ids_the_reward_model_lacks_are_an_error_row_not_a_crash() -> None:
    base, reward = make_model("llama", seed=1, vocab=104), make_model("llama", seed=2)
    decoder = GuidedDecoder(base, {"r": reward})
    out = decoder.generate([[5, 100], [5, 6]], max_new_tokens=3)
    assert_one_line(out.errors[0], "row 0: the r prompt holds token id 100")
    own = decoder.generate([[5, 100], [5, 6]], reward_prompts={"r": [[5], [6]]}, max_new_tokens=3)
    assert not own.errors, "the base's own ids are fine in its own prompt"


def test_a_padding_id_no_model_knows_is_only_ever_padding() -> None:
    """Padding is never looked up in an embedding, so it may lie outside of every one of them."""
    base, reward = make_model("llama", seed=1, vocab=104), make_model("llama", seed=2)
    prompts = random_prompts([6, 11, 1], seed=5)
    settings: dict[str, Any] = {"max_new_tokens": 8, "seed": 2, "eos_token_id": list(range(3, 40))}
    expected = GuidedDecoder(base, [reward]).generate(prompts, **settings)
    for pad, engine in ((100, "auto"), (500, "hf")):
        base.generation_config.pad_token_id = pad
        out = GuidedDecoder(base, [reward], engine=engine).generate(prompts, **settings)  # type: ignore[arg-type]
        assert [row.tolist() for row in out.tokens] == [row.tolist() for row in expected.tokens]
        assert int(out.sequences[2, 0]) == pad


def test_a_padded_tensor_without_a_mask_is_stripped_where_the_pad_id_means_nothing_else(decoder: GuidedDecoder) -> None:
    prompts = [row.clamp(min=3) for row in PROMPTS]
    expected = decoder.generate(prompts, max_new_tokens=8, seed=4)
    for padding in (left_padded, right_padded):
        ids, mask = padding(prompts)
        out = decoder.generate(ids, max_new_tokens=8, seed=4)
        assert torch.equal(out.sequences, decoder.generate(ids, mask, max_new_tokens=8, seed=4).sequences)
        assert all(map(torch.equal, out.tokens, expected.tokens))
    common: dict[str, Any] = {"max_new_tokens": 5, "seed": 4, "return_logprobs": True}
    own = decoder.generate(PROMPTS[::-1], reward_prompts={"r": prompts}, **common)
    for padding in (left_padded, right_padded):
        out = decoder.generate(PROMPTS[::-1], reward_prompts={"r": padding(prompts)[0]}, **common)
        assert torch.equal(out.sequences, own.sequences)
        torch.testing.assert_close(out.model_logprobs, own.model_logprobs, equal_nan=True)
    one = decoder.generate(torch.tensor([[9, 0, 9]]), max_new_tokens=2, seed=4)
    assert one.stats.prompt_tokens == 3, "a pad id between tokens is a token"


def test_a_pad_id_that_is_also_eos_is_a_token_without_a_mask() -> None:
    base = make_model("llama", seed=1)
    base.generation_config.pad_token_id = base.generation_config.eos_token_id = 2
    out = GuidedDecoder(base).generate(torch.tensor([[2, 9, 2]]), max_new_tokens=1)
    assert out.stats.prompt_tokens == 3
