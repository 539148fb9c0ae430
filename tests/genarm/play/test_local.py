"""Pairs of texts by the models of this process: two rows of one batch, token by token, with every model's words."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from families import make_model, word_tokenizer

import genarm_kernels
from genarm import GuidedDecoder, InvalidArgumentError
from genarm.play.asked import messages
from genarm.play.colours import pair_html
from genarm.play.local import LocalWriter, _Row
from genarm.play.settings import CHAT, PlaySettings
from genarm.play.worker import Workers
from genarm.play.written import WrittenPair
from genarm.request.transcript import transcript

SETTINGS = PlaySettings(prompt="w5 w6", weights={"r": 2.0, "s": 0.0}, beta=0.5, seed=3, new_tokens=9, colour="r")


@pytest.fixture(scope="module")
def writer() -> LocalWriter:
    models = {name: make_model("llama", seed=seed, hidden=16) for name, seed in (("r", 2), ("s", 3))}
    decoder = GuidedDecoder(make_model("llama", seed=1), models, tokenizer=word_tokenizer())
    return LocalWriter(decoder, SETTINGS, "tiny")


def test_pairs_grow_into_what_generate_returns(writer: LocalWriter) -> None:
    pairs = list(writer.write(SETTINGS))
    prompt: Any = [SETTINGS.prompt] * 2
    out = writer.decoder.generate(
        prompt,
        weights=[{}, {"r": 2.0}],
        beta=0.5,
        seed=genarm_kernels.row_seeds(3, 1).repeat(2),
        max_new_tokens=9,
        return_logprobs=True,
    )
    assert out.texts is not None and out.model_logprobs is not None and pairs[-1].is_finished
    for side, text, values, ids in zip(_sides(pairs[-1]), out.texts, out.model_logprobs, out.tokens, strict=True):
        assert side.text == text and len(side.tokens) == len(ids)
        found = torch.tensor([[token.base, *token.rewards] for token in side.tokens])
        assert torch.equal(found, values[: len(ids)])
    for before, after in pairwise(pairs):
        for early, late in zip(_sides(before), _sides(after), strict=True):
            assert late.tokens[: len(early.tokens)] == early.tokens and not early.ending
    assert len(pairs) > 9


def test_without_weights_both_texts_are_the_same(writer: LocalWriter) -> None:
    *_, last = writer.write(replace(SETTINGS, weights={"r": 0.0, "s": 0.0}))
    assert last.base == last.guided
    *_, other = writer.write(SETTINGS)
    assert other.base == last.base and other.guided != last.guided


def test_a_chat_without_a_template_is_lines_that_end_before_the_next(writer: LocalWriter) -> None:
    settings = replace(SETTINGS, mode=CHAT, system="Be brief.", turns=(("hi", "ho"),), prompt="and?")
    assert transcript(messages(settings)) == "Be brief.\n\nUser: hi\nAssistant: ho\nUser: and?\nAssistant:"
    assert writer._prompt(settings)[1] == ("\nUser:", "\nAssistant:")


def test_a_chat_goes_through_the_template_where_there_is_one(writer: LocalWriter) -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}w9"
    chatting = LocalWriter(GuidedDecoder(make_model("llama", seed=1), {}, tokenizer=tokenizer), SETTINGS, "chats")
    settings = replace(SETTINGS, mode=CHAT, system="w1", turns=(("w2", "w3"),), prompt="w4")
    ids, stops = chatting._prompt(settings)
    assert chatting.has_chat_template and not writer.has_chat_template and stops == ()
    assert tokenizer.decode(ids) == "w1 w2 w3 w4 w9"


def test_what_a_stop_string_hides_is_not_shown() -> None:
    tokenizer: Any = word_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "w7"})
    w5, w6 = tokenizer.convert_tokens_to_ids(["w5", "w6"])
    row = _Row(tokenizer, [w5])
    values = torch.tensor([[-1.0, -2.0, -3.0]] * 2)
    row.push([w5], " w5")
    row.push([w6], "")  # it may be the beginning of a stop string, which it then was
    for ending in ("", "ended by itself"):
        written = row.written(values, ending)
        assert [(token.text, token.base, token.rewards) for token in written.tokens] == [(" w5", -1.0, (-2.0, -3.0))]
    row.push([tokenizer.eos_token_id], " w6")
    written = row.written(torch.cat([values, values[:1]]), "ended by itself")
    assert written.text == " w5 w6" and [token.is_mark for token in written.tokens] == [False, False, True]


def test_an_empty_prompt_is_refused(writer: LocalWriter) -> None:
    for mode, word in (("prompt", "prompt"), (CHAT, "message")):
        with pytest.raises(InvalidArgumentError, match=f"{word} is empty"):
            next(writer.write(replace(SETTINGS, prompt=" \n", mode=mode)))


def test_a_run_that_is_closed_gives_its_buffers_back(writer: LocalWriter) -> None:
    for _ in range(3):
        texts = writer.write(SETTINGS)
        next(texts)
        texts.close()
    assert len(list(writer.write(SETTINGS))) > 1


def test_colours_are_html_in_which_texts_are_texts(writer: LocalWriter) -> None:
    *_, last = writer.write(SETTINGS)
    base, guided, legend = pair_html(last, replace(SETTINGS, prompt="<b>"), writer.names)
    assert "&lt;b&gt;" in base and guided.count("title=") == len(last.guided.tokens)
    assert "log π_r − log π_base" in legend
    assert pair_html(WrittenPair(), SETTINGS, writer.names)[2] == ""
    mean = math.fsum(token.rewards[0] for token in last.guided.tokens) / len(last.guided.tokens)
    assert f"r {mean:.2f} nats per token".replace("-", "−") in guided


def test_runs_of_pages_wait_for_one_another_and_a_new_one_replaces_its_own(writer: LocalWriter) -> None:
    workers = Workers(writer)
    first, other = workers.start("one", SETTINGS), workers.start("two", SETTINGS)
    newer = workers.start("one", replace(SETTINGS, seed=4))
    for worker in (first, other, newer):
        while not worker.is_over:
            time.sleep(0.01)
    assert first.is_replaced and first.is_stopped and not (other.is_replaced or newer.is_replaced)
    assert other.pair.is_finished and newer.pair.is_finished and newer.error is other.error is None


def _sides(pair: WrittenPair) -> tuple[Any, Any]:
    return pair.base, pair.guided
