"""The figures of a Pareto sweep's texts: rows that decoding wrote -> what each cell is placed by.

An objective's score of a text is what its own reward model gives, log π_r(y) as mean per token or as sum, or what a
trajectory RM gives. KL(q ‖ base) is estimated by log q(y) − log π_base(y) over texts y drawn from q.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from ..errors import GenARMError
from .cells import Cell
from .pareto import FIGURES, Floats, Sweep
from .trade_off import distinct_share

Score = Literal["mean", "sum"]
Texts = Sequence[Sequence[Sequence[Mapping[str, Any]]]]  # [P][C][N] rows: prompts, cells, samples
MEASURES: dict[Score, str] = {"mean": "mean log π_r, nats per token", "sum": "Σ log π_r, nats per text"}
TRAJECTORY = "score of a trajectory RM"


def whole_prompts(texts: Texts) -> list[int]:
    """The places of the prompts none of whose rows failed, so that every cell is measured on the same ones.

    Raises:
        GenARMError: there is none.
    """
    whole = [
        place
        for place, cells in enumerate(texts)
        if all(row["finish_reason"] != "error" for rows in cells for row in rows)
    ]
    if not whole:
        error = next(row["error"] for cells in texts for rows in cells for row in rows if "error" in row)
        raise GenARMError(f"every prompt has a row that failed, so there is nothing to compare: {error}")
    return whole


def measured(
    texts: Texts,
    cells: Sequence[Cell],
    objectives: Sequence[str],
    score: Score = "mean",
    temperature: float = 1.0,
    scores: Mapping[str, Floats] | None = None,
) -> Sweep:
    """The sweep of rows that all succeeded.

    Args:
        texts: [P][C][N] rows with ``text``, ``token_count``, ``logprob_sum`` (log q of the text) and ``logprob_sums``
            (by model, "base" among them; None for −∞).
        score: how log π_r of a text's tokens becomes an objective's score.
        temperature: of the rows without one of their own. At 0 a text is certain, and log q is 0.
        scores: a trajectory RM's scores [P, C, N] in place of that, by objective.
    """
    values = np.array(
        [[[_figures(row, objectives, score, temperature) for row in rows] for rows in row_cells] for row_cells in texts]
    )
    for name, given in (scores or {}).items():
        values[..., list(objectives).index(name)] = given
    alone = len(texts) == 1
    return Sweep(
        cells=list(cells),
        objectives=tuple(objectives),
        measures=tuple(TRAJECTORY if name in (scores or {}) else MEASURES[score] for name in objectives),
        values=values[0].swapaxes(0, 1) if alone else values.mean(2),
        distinct=[
            distinct_share([row["text"] for prompt in texts for row in prompt[place]]) for place in range(len(cells))
        ],
        unit="texts of the prompt" if alone else "prompts",
    )


def _figures(row: Mapping[str, Any], objectives: Sequence[str], score: Score, temperature: float) -> list[float]:
    """A text's score under each objective, then FIGURES."""
    count = row["token_count"]
    sums = {name: -math.inf if value is None else value for name, value in row["logprob_sums"].items()}
    rewards = [sums[name] / (count if score == "mean" else 1) for name in objectives]
    own = row.get("temperature")
    certain = (temperature if own is None else own) == 0
    divergence = (0.0 if certain else row["logprob_sum"]) - sums["base"]
    found = {"kl": divergence, "kl per token": divergence / count, "tokens": float(count)}
    return [*rewards, *(found[name] for name in FIGURES)]
