"""From texts to figures: means by weight, and the share of the large reward model's gain that a small one has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.weak_to_strong.gap import Curve, Floats, gap_at_kl, gap_at_weight, mean_estimate
from experiments.weak_to_strong.models import SIZES
from experiments.weak_to_strong.texts import WEIGHTS, Row
from genarm.preferences.statistics import Estimate

SCORES = ("about", "judged")
KL_SHARES = (0.25, 0.5, 0.75, 1.0)  # of the divergence that both curves reach
Texts = Mapping[tuple[str, str | None], Sequence[Row]]


def column(rows: Sequence[Row], weight: float, name: str) -> Floats:
    """[N] values of the texts at one weight, in the order that they were decoded in."""
    return np.array([row[name] for row in rows if row["weight"] == weight], dtype=np.float64)


def curve(rows: Sequence[Row], score: str) -> Curve:
    return Curve(*(np.stack([column(rows, weight, name) for weight in WEIGHTS]) for name in (score, "kl")))


def point(rows: Sequence[Row], weight: float) -> dict[str, Any]:
    """What the texts of one base, reward model and weight come to."""
    chosen = [row for row in rows if row["weight"] == weight]
    tokens = np.array([len(row["tokens"]) for row in chosen])
    return {
        "weight": weight,
        "texts": len(chosen),
        "about": mean_estimate(column(rows, weight, "about")).as_dict(),
        "judged": mean_estimate(column(rows, weight, "judged")).as_dict(),
        "kl": mean_estimate(column(rows, weight, "kl")).as_dict(),
        # nats per token are those of all tokens, so that a short text does not weigh as much as a long one
        "base_nll_per_token": round(float(column(rows, weight, "base_nll").sum() / tokens.sum()), 4),
        "mean_tokens": round(float(tokens.mean()), 2),
        "ended": round(float(np.mean([row["ended"] for row in chosen])), 4),
        "distinct": round(len({row["text"] for row in chosen}) / len(chosen), 4),
    }


def points(texts: Texts) -> list[dict[str, Any]]:
    return [
        {"base": base, "reward_model": reward, **point(rows, weight)}
        for (base, reward), rows in texts.items()
        for weight in ((0.0,) if reward is None else WEIGHTS)
    ]


def gaps(texts: Texts) -> list[dict[str, Any]]:
    """For every base and every smaller reward model: the share recovered of what one of the base's own size gains."""
    found = []
    for base in SIZES:
        for reward in SIZES:
            if reward == base:
                break
            found += [
                {"base": base, "reward_model": reward, "score": score, **gap}
                for score in SCORES
                for gap in _gaps(texts[base, None], texts[base, reward], texts[base, base], score)
            ]
    return found


def _gaps(alone: Sequence[Row], small: Sequence[Row], large: Sequence[Row], score: str) -> list[dict[str, Any]]:
    base, curves = column(alone, 0.0, score), (curve(small, score), curve(large, score))
    reach = min(one.farthest() for one in curves)
    places = [share * reach for share in KL_SHARES] if reach > 0 else []  # an estimate of 0 may be below it
    at_kl = [(place, gap_at_kl(base, *curves, place)) for place in places]
    at_weight = [
        (weight, gap_at_weight(base, *(column(rows, weight, score) for rows in (small, large)))) for weight in WEIGHTS
    ]
    return [_record("kl", *one) for one in at_kl] + [_record("weight", *one) for one in at_weight]


def _record(at: str, value: float, found: Estimate) -> dict[str, Any]:
    """JSON has no NaN: what is undefined is None."""
    numbers = {name: None if np.isnan(number) else number for name, number in found.as_dict().items()}
    return {"at": at, "value": round(value, 3), "recovered": numbers}
