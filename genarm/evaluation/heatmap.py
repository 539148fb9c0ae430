"""Token rewards as pictures: coloured text in the terminal and an HTML heat map.

The reward of a token is log π_r(y_t | x, y_<t). Rewards compare only between tokens on one prefix, so the colour shows
the difference to the base, log π_r − log π_base: how far the reward model favours the token beyond what the base does.
What is full colour follows from the values shown (`request.scale.Scale`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text
from torch import Tensor

from ..preferences.encoding import EncodedPair
from ..request.output import GenerationOutput
from ..request.scale import Scale
from .pages import cells, picture, render


@dataclass(frozen=True, slots=True)
class TokenRewards:
    """One text. ``rewards`` maps a reward model to log π_r of each token, ``base`` holds log π_base.

    ``drawn`` holds the log-probability with which each token was drawn, where it was. ``marks`` is what a page shows
    for tokens without text of their own (the end of a sequence), by their number.
    """

    title: str
    prompt: str
    tokens: list[str]
    base: list[float]
    rewards: dict[str, list[float]]
    marks: dict[int, str] = field(default_factory=dict)
    drawn: list[float] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    def mean_reward(self, name: str) -> float:
        """Mean over tokens of log π_r, nats; 0 for an empty text."""
        return self._mean(self.rewards[name])

    def mean_advantage(self, name: str) -> float:
        """Mean over tokens of log π_r − log π_base, nats; 0 for an empty text."""
        return self._mean(self.advantage(name))

    def divergence(self) -> float:
        """Mean over tokens of log p(drawn) − log π_base, nats: its mean over texts estimates their KL from the base."""
        return self._mean([drawn - base for drawn, base in zip(self.drawn, self.base, strict=True)])

    def _mean(self, values: Sequence[float]) -> float:
        return sum(values) / max(len(self.tokens), 1)

    def advantage(self, name: str) -> list[float]:
        """log π_r − log π_base of each token, nats."""
        return [reward - base for reward, base in zip(self.rewards[name], self.base, strict=True)]


# A text, and the reward model that colours it.
View = tuple[TokenRewards, str]


def token_rewards(
    output: GenerationOutput, tokenizer: Any, titles: Sequence[str], prompts: Sequence[str]
) -> list[TokenRewards]:
    """One TokenRewards per row of ``output``, which must have been generated with ``return_logprobs``."""
    if output.model_logprobs is None:
        raise ValueError("the output holds no model_logprobs: generate with return_logprobs=True")
    assert output.logprobs is not None
    found = []
    for row, ids in enumerate(output.tokens):
        numbers = ids.tolist()
        logs = output.model_logprobs[row, : len(ids)].T.tolist()
        rewards = dict(zip(output.model_names[1:], logs[1:], strict=True))
        texts, marks = pieces(tokenizer, numbers), _marks(tokenizer, numbers)
        drawn = output.logprobs[row, : len(ids)].tolist()
        found.append(TokenRewards(titles[row], prompts[row], texts, logs[0], rewards, marks, drawn))
    return found


def _marks(tokenizer: Any, ids: Sequence[int]) -> dict[int, str]:
    """The names of the special tokens, by their place: they have no text of their own."""
    special = set(tokenizer.all_special_ids)
    return {place: str(tokenizer.convert_ids_to_tokens(token)) for place, token in enumerate(ids) if token in special}


def scale_of(views: Iterable[View]) -> Scale:
    """Colours for these texts beside one another."""
    return Scale.of(value for row, name in views for value in row.advantage(name))


def coloured(row: TokenRewards, name: str, scale: Scale) -> Text:
    """The text for a terminal, each token on a ground that says how much ``name`` favours it; above the median it is
    underlined."""
    text = Text(row.prompt, style="dim")
    for token, value in zip(row.tokens, row.advantage(name), strict=True):
        share = scale.strength(value)
        red, green, blue = _colour(share)
        line = "underline " if share > 0 else ""
        text.append(token, style=f"{line}black on rgb({red},{green},{blue})")
    return text


def heatmap_html(views: Sequence[View], title: str, plain: str, pictures: Mapping[str, bytes] | None = None) -> str:
    """A page with one block per prompt and one line per view in it.

    ``plain`` is the title of the rows that a line is compared with: those of the base alone. ``pictures`` are PNGs by
    their description, shown above the texts.
    """
    scale = scale_of(views)
    alone = {row.prompt: row for row, _ in views if row.title == plain}
    blocks: dict[str, list[dict[str, Any]]] = {}
    for row, name in views:
        other = alone.get(row.prompt) if row.title != plain else None
        line = {
            "title": row.title,
            "reward": name,
            "cells": cells(row.tokens, row.rewards[name], row.base, scale, row.marks),
            "mean": row.mean_advantage(name),
            "plain": None if other is None else other.mean_advantage(name),
        }
        blocks.setdefault(row.prompt, []).append(line)
    shown = {words: picture(png) for words, png in (pictures or {}).items()}
    return render(LINES, title, scale, blocks=blocks, pictures=shown)


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text of each token, such that joined they are the decoded text (a character split over tokens goes last)."""
    found, before = [], ""
    for end in range(1, len(ids) + 1):
        after = tokenizer.decode(ids[:end], skip_special_tokens=True)
        stable = after.rstrip("\ufffd") if end < len(ids) else after
        found.append(stable[len(before) :])
        before = stable if len(stable) > len(before) else before
    return found


def _colour(share: float) -> tuple[int, int, int]:
    """White at 0, towards blue above, towards orange below; both stay light enough for black text."""
    end = (116, 172, 255) if share > 0 else (255, 196, 120)
    red, green, blue = (round(255 + (channel - 255) * abs(share)) for channel in end)
    return red, green, blue


LINES = """{% if pictures %}<div class="pictures">{% for words, address in pictures.items() %}
<img src="{{ address }}" alt="{{ words }}">{% endfor %}</div>{% endif %}
{% include "key" %}
{% for prompt, lines in blocks.items() %}<section class="prompts"><h2>“{{ prompt }} …”</h2>
{% for line in lines %}<div class="row"><div><span class="title">{{ line.title }}</span>
<span class="mean">by {{ line.reward }}: {{ line.mean|nats }} nats per token
{%- if line.plain is not none %}; without guidance {{ line.plain|nats }}{% endif %}</span></div>
<div class="text"><span class="prompt">{{ prompt }}</span>{{ tokens(line.cells) }}</div></div>
{% endfor %}</section>
{% endfor %}"""


Sides = tuple[Tensor, Tensor]  # log π of the chosen response's tokens and of the rejected one's


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """Two responses with their token rewards, under the same reward models in the same order."""

    title: str
    chosen: TokenRewards
    rejected: TokenRewards

    def margin(self, name: str) -> float:
        """Σ log π_r(chosen) − Σ log π_r(rejected), nats."""
        return sum(self.chosen.rewards[name]) - sum(self.rejected.rewards[name])

    def mean_margin(self, name: str) -> float:
        """The same of means per token."""
        return self.chosen.mean_reward(name) - self.rejected.mean_reward(name)


def scored_pairs(
    tokenizer: Any,
    pairs: Sequence[EncodedPair],
    titles: Sequence[str],
    base: Sequence[Sides],
    rewards: Mapping[str, Sequence[Sides]],
) -> list[ScoredPair]:
    """Pairs with what `genarm.preferences.scoring.token_rewards` found under the base and under each reward model."""
    found = []
    for number, pair in enumerate(pairs):
        prompt = tokenizer.decode(pair["prompt_ids"], skip_special_tokens=True)
        sides = [
            _side(
                tokenizer, ids, prompt, base[number][side], {name: rows[number][side] for name, rows in rewards.items()}
            )
            for side, ids in enumerate((pair["chosen_ids"], pair["rejected_ids"]))
        ]
        found.append(ScoredPair(titles[number], *sides))
    return found


def _side(tokenizer: Any, ids: list[int], prompt: str, base: Tensor, rewards: Mapping[str, Tensor]) -> TokenRewards:
    logs = {name: values.tolist() for name, values in rewards.items()}
    return TokenRewards("", prompt, pieces(tokenizer, ids), base.tolist(), logs, _marks(tokenizer, ids))


def pairs_html(pairs: Sequence[ScoredPair], title: str) -> str:
    """A page of one block per pair: for each reward model both texts, with sums, means and the verdict."""
    names = list(pairs[0].chosen.rewards) if pairs else []
    summary = [
        {
            "name": name,
            "sum": sum(pair.margin(name) > 0 for pair in pairs),
            "mean": sum(pair.mean_margin(name) > 0 for pair in pairs),
        }
        for name in names
    ]
    scale = scale_of((row, name) for pair in pairs for row in (pair.chosen, pair.rejected) for name in names)
    blocks = [
        {"title": pair.title, "prompt": pair.chosen.prompt, "rewards": [_reward(pair, name, scale) for name in names]}
        for pair in pairs
    ]
    return render(PAIRS, title, scale, summary=summary, count=len(pairs), pairs=blocks)


def _reward(pair: ScoredPair, name: str, scale: Scale) -> dict[str, Any]:
    sides = [
        {
            "name": side,
            "cells": cells(row.tokens, row.rewards[name], row.base, scale, row.marks),
            "sum": sum(row.rewards[name]),
            "mean": row.mean_reward(name),
            "base": sum(row.base),
            "advantage": row.mean_advantage(name),
            "count": len(row.tokens),
        }
        for side, row in (("chosen", pair.chosen), ("rejected", pair.rejected))
    ]
    margin, mean_margin = pair.margin(name), pair.mean_margin(name)
    return {"name": name, "sides": sides, "margin": margin, "mean_margin": mean_margin}


PAIRS = """{% macro verdict(margin, what) -%}
<span class="{{ 'right' if margin > 0 else 'wrong' }}">{{ "right" if margin > 0 else "wrong" }} by {{ what }}
({{ margin|nats }})</span>{%- endmacro %}
{% include "key" %}
<ul>{% for line in summary %}<li><span class="title">{{ line.name }}</span> orders {{ line.sum }} of {{ count }} pairs
right by sum, {{ line.mean }} by mean per token</li>{% endfor %}</ul>
{% for pair in pairs %}<section class="pair"><h2>{{ pair.title }}</h2>
{% if pair.prompt %}<div class="prompt">{{ pair.prompt }}</div>{% endif %}
{% for reward in pair.rewards %}<div class="row"><div><span class="title">{{ reward.name }}</span>
{{ verdict(reward.margin, "sum") }}, {{ verdict(reward.mean_margin, "mean") }}</div>
<div class="sides">{% for side in reward.sides %}<div class="side"><div class="figures">{{ side.name }}:
Σ log π<sub>r</sub> {{ side.sum|figure }}, {{ side.mean|figure }} per token, {{ side.count }} tokens;
base Σ {{ side.base|figure }}, difference {{ side.advantage|nats }} per token</div>
<div class="text">{{ tokens(side.cells) }}</div></div>
{% endfor %}</div></div>
{% endfor %}</section>
{% endfor %}"""
