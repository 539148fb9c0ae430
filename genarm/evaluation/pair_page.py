"""A page of preference pairs: chosen and rejected side by side, each token coloured by log π_r − log π_base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..preferences.encoding import EncodedPair
from .heatmap import TokenRewards, pieces
from .page import cells, render

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
    special = set(tokenizer.all_special_ids)
    marks = {
        number: str(tokenizer.convert_ids_to_tokens(token)) for number, token in enumerate(ids) if token in special
    }
    logs = {name: values.tolist() for name, values in rewards.items()}
    return TokenRewards("", prompt, pieces(tokenizer, ids), base.tolist(), logs, marks)


def pairs_html(pairs: Sequence[ScoredPair], title: str) -> str:
    """A page of one block a pair, and in it a line of two texts a reward model, with sums, means and the verdict."""
    names = list(pairs[0].chosen.rewards) if pairs else []
    summary = [
        {
            "name": name,
            "sum": sum(pair.margin(name) > 0 for pair in pairs),
            "mean": sum(pair.mean_margin(name) > 0 for pair in pairs),
        }
        for name in names
    ]
    blocks = [
        {"title": pair.title, "prompt": pair.chosen.prompt, "rewards": [_reward(pair, name) for name in names]}
        for pair in pairs
    ]
    return render(PAIRS, title, summary=summary, count=len(pairs), pairs=blocks)


def _reward(pair: ScoredPair, name: str) -> dict[str, Any]:
    sides = [
        {
            "name": side,
            "cells": cells(row.tokens, row.rewards[name], row.base, row.marks),
            "sum": sum(row.rewards[name]),
            "mean": row.mean_reward(name),
            "base": sum(row.base),
            "count": len(row.tokens),
        }
        for side, row in (("chosen", pair.chosen), ("rejected", pair.rejected))
    ]
    margin, mean_margin = pair.margin(name), pair.mean_margin(name)
    return {"name": name, "sides": sides, "margin": margin, "mean_margin": mean_margin}


PAIRS = """{% macro verdict(margin, what) -%}
<span class="{{ 'right' if margin > 0 else 'wrong' }}">{{ "right" if margin > 0 else "wrong" }} by {{ what }}
({{ "%+.2f"|format(margin) }})</span>{%- endmacro %}
<ul>{% for line in summary %}<li><span class="title">{{ line.name }}</span> orders {{ line.sum }} of {{ count }} pairs
right by sum, {{ line.mean }} by mean per token</li>{% endfor %}</ul>
{% for pair in pairs %}<section class="pair"><h2>{{ pair.title }}</h2>
{% if pair.prompt %}<div class="prompt">{{ pair.prompt }}</div>{% endif %}
{% for reward in pair.rewards %}<div class="row"><div><span class="title">{{ reward.name }}</span>
{{ verdict(reward.margin, "sum") }}, {{ verdict(reward.mean_margin, "mean") }}</div>
<div class="sides">{% for side in reward.sides %}<div class="side"><div class="figures">{{ side.name }}:
Σ log π<sub>r</sub> {{ "%.2f"|format(side.sum) }}, {{ "%.2f"|format(side.mean) }} a token, {{ side.count }} tokens;
base Σ {{ "%.2f"|format(side.base) }}</div>
<div class="text">{{ tokens(side.cells) }}</div></div>
{% endfor %}</div></div>
{% endfor %}</section>
{% endfor %}"""
