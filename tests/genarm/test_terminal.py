"""A reward on finished answers: what a trajectory RM and a caller's own function are asked, and what is no reward."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from families import make_model, random_prompts, word_tokenizer
from method_cases import make_scorer, score_of
from torch import nn

from genarm import GuidedDecoder
from genarm.errors import GenARMError, InvalidArgumentError, PromptError
from genarm.terminal import TerminalRewards, admit_terminal, terminal_rewards

PROMPTS = [[5, 6, 7], [5, 6, 7], [9, 8], [5, 6, 7], [9, 8]]
ANSWERS = [[10, 11], [12], [10, 11], [10, 11], []]


def rewards(terminal: Any, decoder: GuidedDecoder | None = None, **options: Any) -> TerminalRewards:
    decoder = decoder or GuidedDecoder(make_model("llama"), tokenizer=word_tokenizer())
    request = admit_terminal(decoder, terminal, decoder.prepare(PROMPTS, max_new_tokens=9, **options))
    return terminal_rewards(decoder, terminal, PROMPTS, ANSWERS, None, request)


@pytest.mark.parametrize("most", [1, 3, 8])
def test_a_trajectory_rm_reads_prompt_and_answer_and_a_prompt_once_per_pass(most: int) -> None:
    decoder, scorer = GuidedDecoder(make_model("llama"), max_batch_size=most), make_scorer("llama", seed=7)
    found = rewards(scorer, decoder)
    expected = [score_of(scorer, [*prompt, *answer]) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    assert found.values.tolist() == pytest.approx(expected, abs=1e-3) and found.values.dtype == torch.float64
    prompts = {1: 3 + 3 + 2 + 2, 3: 3 + 2 + 2, 8: 3 + 2}[most]  # of the distinct answers, of which there are four
    assert found.forwarded == {"terminal": prompts + 2 + 1 + 2}


def test_an_answers_score_is_read_before_the_end_that_pads_too() -> None:
    scorer = make_scorer("llama", seed=7)
    scorer.config.pad_token_id = 2
    decoder = GuidedDecoder(make_model("llama"))
    request = admit_terminal(decoder, scorer, decoder.prepare([[5, 6]], max_new_tokens=9))
    found = terminal_rewards(decoder, scorer, [[5, 6]] * 2, [[10, 2], [10]], None, request).values
    assert float(found[0]) == float(found[1]) == pytest.approx(score_of(scorer, [5, 6, 10]), abs=1e-3)


def test_a_function_is_asked_for_each_text_once_as_the_output_has_it_and_for_prompts_if_it_takes_them() -> None:
    asked: list[Any] = []

    def on_texts(texts: list[str], scale: float = 2.0) -> list[float]:
        asked.append(texts)
        return [scale * len(text.split()) for text in texts]

    def on_both(texts: list[str], prompts: list[str]) -> numpy.ndarray:
        asked.append((texts, prompts))
        return numpy.array([len(text) + len(prompt) / 100 for text, prompt in zip(texts, prompts, strict=True)])

    assert rewards(on_texts).values.tolist() == [4.0, 2.0, 4.0, 4.0, 0.0]
    assert rewards(on_both, stop=["w11"]).values.tolist() == [5.08, 4.08, 5.05, 5.08, 0.05]
    assert [len(text.strip()) for text in asked[0]] == [7, 3, 7, 0]
    assert asked[1][0] == [" w10 ", " w12", " w10 ", ""] and asked[1][1] == ["w5 w6 w7", "w5 w6 w7", "w9 w8", "w9 w8"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_no_number_fails_its_answer_alone(bad: float) -> None:
    found = rewards(lambda texts: torch.tensor([1.0, bad, -math.inf, 2.0], requires_grad=True))
    assert list(found.errors) == [1] and "give numbers" in str(found.errors[1])
    assert found.values[[0, 2, 3, 4]].tolist() == [1.0, -math.inf, 1.0, 2.0] and math.isnan(found.values[1])


@pytest.mark.parametrize(
    ("terminal", "words"),
    [
        (lambda texts: [1.0], r"shape \[1\]: return a number for each of the 4 texts"),
        (lambda texts: 1.0, r"shape \[\]"),
        (lambda texts: [[1.0]] * len(texts), r"shape \[4, 1\]"),
        (lambda texts: [None] * len(texts), "returned .None, None"),
        (lambda texts: {"score": 1}, "returned {'score': 1}: return a number"),
        (lambda: [1.0], "terminal takes nothing: write it as terminal"),
        (lambda texts, prompts, more: [1.0], "terminal takes texts, prompts, more"),
        (7, "terminal is 7: pass the path"),
        ("", "terminal is ''"),
        (None, "terminal is None"),
    ],
    ids=["short", "number", "column", "none", "dict", "nothing", "three", "seven", "empty", "absent"],
)
def test_what_is_no_terminal_reward_is_refused_in_one_line(terminal: Any, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        rewards(terminal)


def test_a_function_needs_a_tokenizer_and_a_module_is_a_classifier() -> None:
    with pytest.raises(InvalidArgumentError, match="no tokenizer"):
        rewards(lambda texts: [0.0] * 4, GuidedDecoder(make_model("llama")))
    with pytest.raises(GenARMError, match="has no score"):
        rewards(nn.Linear(2, 1))


def test_what_a_trajectory_rm_cannot_read_is_neither_asked_nor_drawn() -> None:
    decoder, scorer = GuidedDecoder(make_model("llama", vocab=96)), make_scorer("llama", seed=7, vocab=90)
    prompts = [torch.tensor([5, 93]), *random_prompts([4], vocab=90)]
    with pytest.warns(UserWarning, match="from 90 on cannot be drawn"):
        request = admit_terminal(decoder, scorer, decoder.prepare(prompts, max_new_tokens=3))
    assert list(request.errors) == [0] and isinstance(request.errors[0], PromptError)
    out = decoder.run(request)
    assert int(out.tokens[1].max()) < 90 and request.guidance.bias is not None
    assert request.guidance.bias.isinf().tolist() == [token >= 90 for token in range(96)]
