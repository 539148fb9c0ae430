"""Guidance adds log-probabilities id by id: models of one vocabulary only, padded sizes apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import WORDS, make_model, word_tokenizer
from tokenizers import AddedToken

from genarm import GuidedDecoder, VocabularyMismatchError
from genarm.models.vocabulary import check_vocabularies, same_up_to_padding


def test_sizes_of_one_vocabulary_padded_differently() -> None:
    for small, large in (
        (97, 97), (97, 104), (97, 128), (32000, 32000), (32000, 32001), (32001, 32064), (50257, 50304),
        (128256, 128264), (151643, 151936), (151936, 152064), (151665, 151936), (50257, 50400),
    ):  # fmt: skip
        assert same_up_to_padding(small, large), (small, large)
        assert same_up_to_padding(large, small), (large, small)


def test_sizes_of_different_vocabularies() -> None:
    for small, large in (
        (50, 97), (97, 101), (64, 128), (128, 256), (97, 194), (32000, 50257), (32000, 128256), (128256, 151936),
        (32000, 32768),
    ):  # fmt: skip
        for base, reward in ((small, large), (large, small)):
            with pytest.raises(VocabularyMismatchError) as caught:
                check_vocabularies(base, reward, None, None, "helpful")
            text = str(caught.value)
            assert "\n" not in text
            assert "'helpful'" in text and str(base) in text and str(reward) in text


def test_tokenizers_are_compared_token_by_token() -> None:
    other = list(WORDS)
    other[31], other[32] = other[32], other[31]
    with pytest.raises(VocabularyMismatchError) as caught:
        check_vocabularies(97, 97, word_tokenizer(), word_tokenizer(other), "helpful")
    text = str(caught.value)
    assert "\n" not in text
    assert "'helpful'" in text and "id 31" in text and "'w32'" in text and "'w31'" in text
    check_vocabularies(97, 97, word_tokenizer(), word_tokenizer(list(WORDS)), "helpful")
    check_vocabularies(97, 97, word_tokenizer(), None, "helpful")
    beyond = word_tokenizer([*WORDS[:96], "different"])
    check_vocabularies(97, 96, word_tokenizer(), beyond, "helpful")  # a token beyond one of the heads
    with pytest.raises(VocabularyMismatchError, match="50 tokens, the base 97"):
        check_vocabularies(97, 97, word_tokenizer(), word_tokenizer(WORDS[:50]), "helpful")


def test_special_tokens_may_go_by_other_names() -> None:
    roles = ("unk_token", "bos_token", "eos_token")
    base, reward = (
        word_tokenizer([*names, *WORDS[3:]], **dict(zip(roles, names, strict=True)))
        for names in (("<unk>", "<s>", "</s>"), ("[UNK]", "[BOS]", "[EOS]"))
    )
    check_vocabularies(97, 97, base, reward, "helpful")


def with_added(special: bool, *names: str) -> Any:
    tokenizer = word_tokenizer(WORDS[:90], unk_token="w0")
    tokenizer.add_tokens([AddedToken(name, special=special) for name in names])
    return tokenizer


def test_added_special_tokens_may_be_renamed() -> None:
    """Reserved ones that somebody has put to use, with others behind them; what is ordinary in one is no such token."""
    base = with_added(True, "<|reserved_0|>", "<|reserved_1|>")
    check_vocabularies(97, 97, base, with_added(True, "<|reserved_0|>", "<|right_pad|>"), "helpful")
    check_vocabularies(97, 97, base, with_added(True, *(f"<|{index}|>" for index in range(7))), "helpful")
    for first, second in ((base, with_added(False, "w90", "w91")), (with_added(False, "w90", "w91"), base)):
        with pytest.raises(VocabularyMismatchError, match="differ at id 90"):
            check_vocabularies(97, 97, first, second, "helpful")
    with pytest.raises(VocabularyMismatchError, match="differ at id 90"):
        check_vocabularies(97, 97, with_added(False, "one"), with_added(False, "other"), "helpful")


def test_the_check_can_be_left_out(tmp_path: Path) -> None:
    """By path, where tokens are compared, and for loaded models, of which only sizes are."""
    for name, vocab, words in (("base", 97, WORDS), ("other", 97, WORDS[::-1]), ("small", 50, WORDS[:50])):
        make_model("llama", seed=1, vocab=vocab).save_pretrained(tmp_path / name)
        word_tokenizer(words).save_pretrained(str(tmp_path / name))
    for name in ("other", "small"):
        call: dict[str, Any] = {
            "base_model": tmp_path / "base",
            "reward_models": {"r": tmp_path / name},
            "device": "cpu",
        }
        with pytest.raises(VocabularyMismatchError, match="check_vocabulary=False"):
            GuidedDecoder.from_pretrained(**call)
        decoder = GuidedDecoder.from_pretrained(**call, check_vocabulary=False)
        out = decoder.generate(torch.tensor([[5]]), weights={"r": 0.0}, max_new_tokens=3, eos_token_id=[])
        assert len(out.tokens[0]) == 3
    small = make_model("llama", seed=2, vocab=50)
    GuidedDecoder(make_model("llama", seed=1), [small], check_vocabulary=False)


def test_the_decoder_compares_the_tokenizers_it_finds(tmp_path: Path) -> None:
    base, reward = make_model("llama", seed=1), make_model("llama", seed=2)
    base.save_pretrained(tmp_path / "base")
    for name in ("same", "other", "none"):
        reward.save_pretrained(tmp_path / name)
    for name, words in (("base", WORDS), ("same", WORDS), ("other", WORDS[::-1])):
        word_tokenizer(words).save_pretrained(str(tmp_path / name))
    path = tmp_path / "base"
    decoder = GuidedDecoder.from_pretrained(path, {"s": tmp_path / "same", "n": tmp_path / "none"}, device="cpu")
    assert decoder.tokenizer.get_vocab()["w5"] == 5
    assert decoder.reward_names == ("s", "n")
    with pytest.raises(VocabularyMismatchError, match="id 0: 'w96' against 'w0'"):
        GuidedDecoder.from_pretrained(path, {"o": str(tmp_path / "other")}, device="cpu")
    with pytest.raises(VocabularyMismatchError):
        GuidedDecoder(base, {"o": tmp_path / "other"}, tokenizer=word_tokenizer())
    GuidedDecoder(base, {"o": tmp_path / "other"})  # nothing to compare with


def test_another_vocabulary_by_its_size() -> None:
    with pytest.raises(VocabularyMismatchError, match="has 50 tokens, the base 97"):
        GuidedDecoder(make_model("llama", seed=1), [make_model("llama", seed=2, vocab=50)])
