"""Texts that quote themselves: two named passages of made-up words, then a name and that passage again, with edits.

    <s> name passage name passage <again> name passage, some of its words replaced </s>

A word stands once in a text, so what is copied is known from the word before it, and only quotations repeat.
Words of sixteen pairs (plain, vivid) are edits: a passage has the plain one, and its quotation the vivid one in
``EDITED`` of the places. Which, no draft can know that looks for what stood there before.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BEGIN, END, AGAIN = 0, 1, 2
NAMES = range(4, 8)
PAIRS = 16
PLAIN = range(8, 8 + PAIRS)
VIVID = range(PLAIN.stop, PLAIN.stop + PAIRS)
WORDS = range(VIVID.stop, 512)
VOCABULARY = WORDS.stop
SPACING = 16  # words of a passage per word that has a vivid twin
EDITED = 0.3
SHORTEST_CIRCLE = 4  # words


@dataclass(frozen=True, slots=True)
class Texts:
    """Prompts [B, T] int64, which end with the name of what is quoted, and quotations [B, n + 1], which end with
    ``</s>``; ``verbatim`` and ``vivid`` [B, n + 1] are those without an edit and with all of them."""

    prompts: Tensor
    quotations: Tensor
    verbatim: Tensor
    vivid: Tensor


def draw_texts(count: int, words: int, other: int, generator: torch.Generator) -> Texts:
    """Texts with a passage of ``words`` words, which is quoted, and one of ``other`` words before or behind it."""
    drawn = torch.rand(count, len(WORDS), generator=generator).topk(words + other).indices + WORDS.start
    edits = words // SPACING
    places = torch.rand(count, words, generator=generator).topk(edits).indices
    plain = torch.rand(count, PAIRS, generator=generator).topk(min(edits, PAIRS)).indices + PLAIN.start
    places = places[:, : plain.shape[1]]
    passage = drawn[:, :words].scatter(1, places, plain)
    edited = torch.rand(plain.shape, generator=generator) < EDITED
    names = torch.rand(count, len(NAMES), generator=generator).topk(2).indices + NAMES.start
    own, others = torch.cat([names[:, :1], passage], 1), torch.cat([names[:, 1:], drawn[:, words:]], 1)
    pair = [own, others] if bool(torch.rand((), generator=generator) < 0.5) else [others, own]

    def of(token: int) -> Tensor:
        return torch.full((count, 1), token)

    def quotation(now: Tensor) -> Tensor:
        return torch.cat([passage.scatter(1, places, torch.where(now, plain + PAIRS, plain)), of(END)], 1)

    always = torch.ones_like(edited)
    return Texts(
        torch.cat([of(BEGIN), *pair, of(AGAIN), names[:, :1]], 1),
        quotation(edited),
        quotation(~always),
        quotation(always),
    )


def circling(quotations: Tensor, generator: torch.Generator) -> Tensor:
    """Quotations [B, n] that jump back at some place and go in circles from there."""
    count, length = quotations.shape
    jump = torch.randint(length // 4, 3 * length // 4, (count, 1), generator=generator)
    back = (torch.rand(count, 1, generator=generator) * (jump - SHORTEST_CIRCLE)).long() + SHORTEST_CIRCLE
    places = torch.arange(length).expand(count, -1)
    return quotations.gather(1, torch.where(places < jump, places, jump - back + (places - jump) % back))
