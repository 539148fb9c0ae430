"""Prompts of the speculation suite, by model and kind: much to be copied, turns of a chat, and nothing that repeats."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from bench.copy_text import AGAIN, BEGIN, NAMES, VOCABULARY, draw_texts
from genarm.embedded import BASE

STATEMENTS = (
    "I really enjoy painting with watercolors.",
    "I would rather read a book about physics than go to a party.",
    "My friends say that I am always ready to help.",
    "I like to try things that others are afraid of.",
    "Museums are the first thing I look for in a new city.",
    "I often change my mind when someone has a good argument.",
    "There is nothing better than a long walk in the mountains.",
    "I keep a list of experiments that I want to do at home.",
    "People can count on me when they need somebody to listen.",
    "I put my money on what might fail, and I do not regret it.",
)
QUESTIONS = ("What do you do on weekends?", "What matters to you?", "Tell me more.", "Would you say that again?")


def quoting(batch: int, generator: torch.Generator) -> Tensor:
    """A passage of 160 words to be quoted, and another one of 64."""
    return draw_texts(batch, 160, 64, generator).prompts


def chat(batch: int, generator: torch.Generator) -> Tensor:
    """Four turns of passages of 24 words and their quotations, then a fifth, of which little is left to be quoted."""
    turns = []
    for _ in range(4):
        texts = draw_texts(batch, 24, 8, generator)
        turns += [texts.prompts, texts.quotations]
    return torch.cat([*turns, draw_texts(batch, 24, 8, generator).prompts], 1)


def random_words(batch: int, generator: torch.Generator) -> Tensor:
    """Words in no order, few of them twice, and a name that names nothing."""
    words = torch.randint(NAMES.stop, VOCABULARY, (batch, 224), generator=generator)
    ends = torch.tensor([AGAIN, NAMES.start]).expand(batch, -1)
    return torch.cat([torch.full((batch, 1), BEGIN), words, ends], 1)


def statements_again(batch: int, generator: torch.Generator) -> Tensor:
    """Six statements twice, and the first two of them for a third time."""
    drawn = _drawn(STATEMENTS, 6, generator)
    return _encoded(" ".join(drawn * 2 + drawn[:2]), batch)


def conversation(batch: int, generator: torch.Generator) -> Tensor:
    """Three questions with a statement as the answer of each, and a fourth."""
    questions, answers = _drawn(QUESTIONS, 4, generator), _drawn(STATEMENTS, 3, generator)
    turns = [f"User: {question}\nAssistant: {answer}" for question, answer in zip(questions, answers, strict=False)]
    return _encoded("\n".join([*turns, f"User: {questions[3]}\nAssistant:"]), batch)


def random_ids(batch: int, generator: torch.Generator) -> Tensor:
    """Forty tokens of the vocabulary, drawn with no regard to one another."""
    ids = torch.randint(3, len(_tokenizer()), (batch, 40), generator=generator)
    return torch.cat([torch.full((batch, 1), BEGIN), ids], 1)


def _drawn(texts: tuple[str, ...], count: int, generator: torch.Generator) -> list[str]:
    return [texts[index] for index in torch.randperm(len(texts), generator=generator)[:count].tolist()]


def _encoded(text: str, batch: int) -> Tensor:
    return torch.tensor([_tokenizer()(text)["input_ids"]]).expand(batch, -1)


@cache
def _tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(BASE)


PROMPTS: dict[tuple[str, str], Callable[[int, torch.Generator], Tensor]] = {
    ("copy", "quoting"): quoting,
    ("copy", "chat"): chat,
    ("copy", "random"): random_words,
    ("embedded", "quoting"): statements_again,
    ("embedded", "chat"): conversation,
    ("embedded", "random"): random_ids,
}
