"""Guidance adds log-probabilities id by id: models of one vocabulary only, padded sizes apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from genarm import GuidedDecoder, VocabularyMismatchError
from genarm.models.vocabulary import check_vocabularies, same_up_to_padding


def tokenizer(words: list[str], **special: str) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0])),
        **special,
    )


WORDS = [f"w{index}" for index in range(97)]


@pytest.mark.parametrize(
    ("small", "large"),
    [(97, 97), (97, 104), (97, 128), (32000, 32000), (32000, 32001), (32001, 32064), (50257, 50304), (128256, 128264),
     (151643, 151936), (151936, 152064), (151665, 151936), (50257, 50400)],
)  # fmt: skip
def test_sizes_of_one_vocabulary_padded_differently(small: int, large: int) -> None:
    assert same_up_to_padding(small, large)
    assert same_up_to_padding(large, small)


@pytest.mark.parametrize(
    ("small", "large"),
    [(50, 97), (97, 101), (64, 128), (128, 256), (97, 194), (32000, 50257), (32000, 128256),
     (128256, 151936), (32000, 32768)],
)  # fmt: skip
def test_sizes_of_different_vocabularies(small: int, large: int) -> None:
    assert not same_up_to_padding(small, large)
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
        check_vocabularies(97, 97, tokenizer(WORDS), tokenizer(other), "helpful")
    text = str(caught.value)
    assert "\n" not in text
    assert "'helpful'" in text and "id 31" in text and "'w32'" in text and "'w31'" in text
    check_vocabularies(97, 97, tokenizer(WORDS), tokenizer(list(WORDS)), "helpful")
    check_vocabularies(97, 97, tokenizer(WORDS), None, "helpful")


def test_tokens_beyond_both_heads_do_not_matter() -> None:
    other = [*WORDS[:96], "different"]
    check_vocabularies(97, 96, tokenizer(WORDS), tokenizer(other), "helpful")


def test_special_tokens_may_go_by_other_names() -> None:
    base = tokenizer(["<unk>", "<s>", "</s>", *WORDS[3:]], unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    reward = tokenizer(["[UNK]", "[BOS]", "[EOS]", *WORDS[3:]], unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]")
    check_vocabularies(97, 97, base, reward, "helpful")


def test_a_tokenizer_of_another_size_is_another_vocabulary() -> None:
    with pytest.raises(VocabularyMismatchError) as caught:
        check_vocabularies(97, 97, tokenizer(WORDS), tokenizer(WORDS[:50]), "helpful")
    assert "50 tokens, the base 97" in str(caught.value)


def test_the_decoder_compares_the_tokenizers_it_finds(tmp_path: Path) -> None:
    make_model("llama", seed=1).save_pretrained(tmp_path / "base")
    make_model("llama", seed=2).save_pretrained(tmp_path / "same")
    make_model("llama", seed=2).save_pretrained(tmp_path / "other")
    make_model("llama", seed=2).save_pretrained(tmp_path / "none")
    tokenizer(WORDS).save_pretrained(str(tmp_path / "base"))
    tokenizer(WORDS).save_pretrained(str(tmp_path / "same"))
    tokenizer(WORDS[::-1]).save_pretrained(str(tmp_path / "other"))
    base = tmp_path / "base"
    decoder = GuidedDecoder.from_pretrained(base, {"s": tmp_path / "same", "n": tmp_path / "none"}, device="cpu")
    assert decoder.tokenizer.get_vocab()["w5"] == 5
    assert decoder.reward_names == ("s", "n")
    with pytest.raises(VocabularyMismatchError, match="id 0: 'w96' against 'w0'"):
        GuidedDecoder.from_pretrained(base, {"o": str(tmp_path / "other")}, device="cpu")
    with pytest.raises(VocabularyMismatchError):
        GuidedDecoder(make_model("llama", seed=1), {"o": tmp_path / "other"}, tokenizer=tokenizer(WORDS))
    GuidedDecoder(make_model("llama", seed=1), {"o": tmp_path / "other"})  # nothing to compare with


def test_loaded_models_of_different_vocabularies_are_refused() -> None:
    with pytest.raises(VocabularyMismatchError, match="has 50 tokens, the base 97"):
        GuidedDecoder(make_model("llama", seed=1), [make_model("llama", seed=2, vocab=50)])


def test_the_shared_vocabulary_is_the_smallest() -> None:
    decoder = GuidedDecoder(make_model("llama", seed=1, vocab=104), [make_model("llama", seed=2)])
    assert decoder.vocab_size == 97
    out = decoder.generate(torch.tensor([[5]]), max_new_tokens=3, logit_bias=torch.zeros(97))
    assert len(out.tokens[0]) == 3
