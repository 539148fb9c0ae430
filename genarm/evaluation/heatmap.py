"""Token rewards as pictures: coloured text in the terminal and an HTML heat map.

The reward of a token is log π_r(y_t | x, y_<t). Rewards compare only between tokens on one prefix, so the colour shows
the difference to the base, log π_r − log π_base: how far the reward model favours the token beyond what the base does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from ..output import GenerationOutput
from .page import cells, render, strength


@dataclass(frozen=True, slots=True)
class TokenRewards:
    """One text. ``rewards`` maps a reward model to log π_r of each token, ``base`` holds log π_base.

    ``marks`` is what a page shows for tokens without text of their own (the end of a sequence), by their number.
    """

    title: str
    prompt: str
    tokens: list[str]
    base: list[float]
    rewards: dict[str, list[float]]
    marks: dict[int, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    def mean_reward(self, name: str) -> float:
        """Mean over tokens of log π_r, nats; 0 for an empty text."""
        return sum(self.rewards[name]) / max(len(self.tokens), 1)

    def advantage(self, name: str) -> list[float]:
        """log π_r − log π_base of each token, nats."""
        return [reward - base for reward, base in zip(self.rewards[name], self.base, strict=True)]


def token_rewards(
    output: GenerationOutput, tokenizer: Any, titles: Sequence[str], prompts: Sequence[str]
) -> list[TokenRewards]:
    """One TokenRewards a row of ``output``, which must have been generated with ``return_logprobs``."""
    if output.model_logprobs is None:
        raise ValueError("the output holds no model_logprobs: generate with return_logprobs=True")
    found = []
    for row, ids in enumerate(output.tokens):
        logs = output.model_logprobs[row, : len(ids)].T.tolist()
        texts = pieces(tokenizer, ids.tolist())
        rewards = dict(zip(output.model_names[1:], logs[1:], strict=True))
        found.append(TokenRewards(titles[row], prompts[row], texts, logs[0], rewards))
    return found


def coloured(row: TokenRewards, name: str) -> Text:
    """The text for a terminal, each token on a ground that says how much ``name`` favours it."""
    text = Text(row.prompt, style="dim")
    for token, value in zip(row.tokens, row.advantage(name), strict=True):
        red, green, blue = _colour(value)
        text.append(token, style=f"black on rgb({red},{green},{blue})")
    return text


def heatmap_html(rows: Sequence[TokenRewards], shown: Mapping[int, str], title: str) -> str:
    """A page with one line a row; ``shown`` says which reward colours row i (the first one where it says nothing)."""
    lines = []
    for index, row in enumerate(rows):
        name = shown.get(index) or next(iter(row.rewards))
        found, mean = cells(row.tokens, row.rewards[name], row.base, row.marks), row.mean_reward(name)
        lines.append({"title": row.title, "reward": name, "prompt": row.prompt, "cells": found, "mean": mean})
    return render(LINES, title, lines=lines)


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text of each token, such that joined they are the decoded text (a character split over tokens goes last)."""
    found, before = [], ""
    for end in range(1, len(ids) + 1):
        after = tokenizer.decode(ids[:end], skip_special_tokens=True)
        stable = after.rstrip("\ufffd") if end < len(ids) else after
        found.append(stable[len(before) :])
        before = stable if len(stable) > len(before) else before
    return found


def _colour(value: float) -> tuple[int, int, int]:
    """White at 0, towards green above, towards orange below; both stay light enough for black text."""
    share = strength(value)
    end = (86, 196, 120) if share > 0 else (240, 148, 88)
    red, green, blue = (round(255 + (channel - 255) * abs(share)) for channel in end)
    return red, green, blue


LINES = """{% for line in lines %}<div class="row"><div><span class="title">{{ line.title }}</span>
<span class="mean">coloured by {{ line.reward }}, mean reward {{ "%.2f"|format(line.mean) }} nats a token</span></div>
<div class="text"><span class="prompt">{{ line.prompt }}</span>{{ tokens(line.cells) }}</div></div>
{% endfor %}"""
