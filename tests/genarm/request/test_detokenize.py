"""Ids become text: what the new tokens add to the prompt, at once or piece by piece, and never half a character."""

from __future__ import annotations

import random
from typing import Any

import pytest
from chat_families import byte_tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from genarm.request.detokenize import Pieces, RowText, TokenText, new_text

TEXT = "It's 5 €, says Zoë 👩‍🚀:\n\n    “naïve” 你好 — done "


def sentencepiece() -> Any:
    """Llama 2's way: words begin with ▁, which is dropped at the start of a text; other characters are bytes."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁▁", "▁a", "a", "b", "▁Hello"]
    inner = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, [], byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def wordpiece() -> Any:
    words = ["[UNK]", "[SEP]", "play", "##ing", "##ed", "the", "a", ",", "."]
    inner = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    inner.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner, sep_token="[SEP]", unk_token="[UNK]")


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Token by token as a model might write it, bytes where there is no token."""
    known = tokenizer.get_vocab()
    found: list[int] = []
    for letter in text.replace(" ", "▁"):
        found += [known[letter]] if letter in known else [known[f"<0x{byte:02X}>"] for byte in letter.encode()]
    return found


@pytest.mark.parametrize("make", [byte_tokenizer, sentencepiece, wordpiece])
def test_the_pieces_joined_are_the_text(make: Any) -> None:
    tokenizer = make()
    decode, choose = TokenText(tokenizer), random.Random(3)
    vocabulary = list(tokenizer.get_vocab().values())
    for length in [0, 1, 2, 5, 9, 40, 90] * 5:
        prompt = choose.choices(vocabulary, k=choose.randrange(12))
        tokens = choose.choices(vocabulary, k=length)
        pieces = Pieces(decode, prompt)
        streamed = "".join([*map(pieces.push, tokens), pieces.rest()])
        assert streamed == new_text(decode, prompt, tokens)


def test_a_character_comes_whole_and_at_once() -> None:
    for tokenizer in (byte_tokenizer(), sentencepiece()):
        known = tokenizer.get_vocab()
        own = "<0x41>" in known
        tokens = ids_of(tokenizer, TEXT) if own else tokenizer(TEXT, add_special_tokens=False)["input_ids"]
        pieces = Pieces(TokenText(tokenizer), [1, *tokens[:4]])
        found = [pieces.push(token) for token in tokens]
        assert "".join(found) == TEXT and pieces.rest() == ""
        assert [len(piece) for piece in found if piece] == [1] * len(TEXT), "no character waits for the next"


def test_new_tokens_are_read_behind_the_prompt() -> None:
    tokenizer = sentencepiece()
    decode, known = TokenText(tokenizer), tokenizer.get_vocab()
    hello, a = known["▁Hello"], known["▁a"]
    assert decode([a]) == "a" and new_text(decode, [1, hello], [a, 2]) == " a"
    assert new_text(decode, [1], [hello]) == "Hello", "nothing stands before the first word of a text"
    begun = tokenizer.convert_tokens_to_ids(["<0xE4>", "<0xBD>"])
    assert new_text(decode, [1, hello, *begun], [known["<0xA0>"], a]) == "你 a"


def test_bytes_that_are_no_character_take_nothing_else_with_them() -> None:
    for tokenizer, byte in ((sentencepiece(), "<0xFF>"), (byte_tokenizer(), "ÿ")):
        known = tokenizer.get_vocab()
        good = ids_of(tokenizer, "你") if "<0x41>" in known else tokenizer("你", add_special_tokens=False)["input_ids"]
        bad = [known[byte]]
        for tokens, text in (([*good, *bad], "你\ufffd"), ([*good, *bad, known["a"]], "你\ufffda")):
            assert new_text(TokenText(tokenizer), [1], tokens) == text


def test_a_stop_string_is_found_across_tokens_and_kept_back_until_then() -> None:
    tokenizer = byte_tokenizer()
    tokens = tokenizer("one\n\ntwo", add_special_tokens=False)["input_ids"]
    row = RowText(TokenText(tokenizer), [1], ["\n\n", "xyz"])
    taken, stopped = [], []
    for token in tokens[:5]:
        stopped.append(row.push(token))
        taken.append(row.take(ended=stopped[-1]))
    assert stopped == [False] * 4 + [True] and taken == ["o", "n", "e", "", ""]
    assert row.text == row.end() == "one"
    row = RowText(TokenText(tokenizer), [1], ["\n\n"])
    pieces = [row.take(ended=row.push(token)) for token in tokens[:4]]
    assert "".join(pieces) == "one" and row.take(ended=True) == "\n", "what did not become one is text after all"
    assert row.end() == "one\n"


def test_of_two_stop_strings_the_one_that_begins_first_cuts() -> None:
    class Whole:
        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(["a", "bcd", "xbcdx"][index] for index in ids)

    row = RowText(TokenText(Whole()), [], ["d", "bc"])
    assert row.push(0) is False and row.push(2) is True
    assert row.end() == "ax"
