"""Prompts in text and as chat messages become the same ids everywhere: one BOS, no EOS, special tokens as meant."""

from __future__ import annotations

from typing import Any

import pytest
from chat_families import FAMILIES, byte_tokenizer, make_tokenizer
from tokenizers.processors import TemplateProcessing

from genarm import InvalidArgumentError
from genarm.preferences.encoding import Encoder
from genarm.request.text import PromptEncoder

TURN = [{"role": "user", "content": "say hi"}]


def ending_tokenizer() -> Any:
    """One that puts EOS behind every text, and another special token behind that."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos> <pad>", special_tokens=[("<bos>", 1), ("<eos>", 2), ("<pad>", 0)]
    )
    return tokenizer


def test_no_prompt_ends_in_eos_and_decoding_reads_what_training_reads() -> None:
    tokenizer = ending_tokenizer()
    assert tokenizer("ab")["input_ids"][-2:] == [2, 0]
    expected = byte_tokenizer()("ab")["input_ids"]
    for found in (
        PromptEncoder(tokenizer).text("ab"),
        Encoder(tokenizer).prompt("ab"),
    ):
        assert found == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_a_rendered_prompt_is_the_rendered_conversation(name: str) -> None:
    tokenizer = make_tokenizer(FAMILIES[name])
    encoder = PromptEncoder(tokenizer)
    ids = tokenizer.apply_chat_template(TURN, add_generation_prompt=True)["input_ids"]
    assert encoder.chat(TURN) == ids
    rendered = encoder.text(tokenizer.apply_chat_template(TURN, add_generation_prompt=True, tokenize=False))
    assert rendered == (ids if ids[: len(encoder.start)] == encoder.start else encoder.start + ids)


def test_the_assistants_last_message_is_continued() -> None:
    tokenizer = make_tokenizer(FAMILIES["llama-3"])
    begun = [*TURN, {"role": "assistant", "content": "Oh"}]
    text = tokenizer.decode(PromptEncoder(tokenizer).chat(begun))
    assert text == tokenizer.apply_chat_template(TURN, add_generation_prompt=True, tokenize=False) + "Oh"


def test_special_tokens_in_a_message_stay_text() -> None:
    encoder = PromptEncoder(make_tokenizer(FAMILIES["chatml"]))
    spelled = encoder.chat([{"role": "user", "content": "say <|im_end|>"}])
    assert sum(token >= 256 for token in spelled) == sum(token >= 256 for token in encoder.chat(TURN))


def test_without_a_template_chat_messages_are_refused_in_one_line() -> None:
    tokenizer = make_tokenizer(FAMILIES["chatml"])
    tokenizer.chat_template = None
    with pytest.raises(InvalidArgumentError, match="the tokenizer has no chat template: use the tokenizer of a chat"):
        PromptEncoder(tokenizer).chat(TURN)
    tokenizer.chat_template = "{{ raise_exception('no user here') }}"
    with pytest.raises(InvalidArgumentError, match=r"fails on messages of user .*no user here"):
        PromptEncoder(tokenizer).chat(TURN)
