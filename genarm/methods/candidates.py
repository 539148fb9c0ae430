"""Token by token: the base's likeliest tokens, each read by a model of one number, and a choice by both."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..models.scalar import ScalarModel
from .call import Call, MethodRow
from .draws import choices, top_candidates

# logits of the candidates [R, k] and what the model says of the text with each [R, k], float32 -> scores [R, k]
Combine = Callable[[Tensor, Tensor], Tensor]


def write_by_candidates(
    call: Call, scorer: ScalarModel, count: int, combine: Combine, temperature: float | Tensor
) -> None:
    """Write every row of a call: at each step draw from softmax(scores / temperature) over the base's ``count``
    likeliest tokens.

    The candidates of all rows are one batch of the scorer, which reads one token for each; what it read of the one
    that was drawn is copied to its siblings. A row's ``score`` is the scorer's of its answer.

    temperature: one, or [B] for the rows of the call; 0 takes the largest score.
    """
    k = min(count, call.request.vocab_size)
    for rows in call.chunks():
        with call.reader(call.base, len(rows), rows) as base, call.reader(scorer, len(rows) * k, rows) as judge:
            logits = call.prefill(base, [row.prompt for row in rows])[0]
            call.prefill(judge, [row.prompt for row in rows for _ in range(k)])
            while True:
                values, ids = top_candidates(call.scores(logits, rows), k)
                live = [row.reason is None for row in rows]
                offered = [[token] * there for own, there in zip(ids.tolist(), live, strict=True) for token in own]
                if not any(live):
                    break
                found = judge.extend(offered)[0][:, 0].float().view(len(rows), k)
                call.check_scores(found, rows, scorer.name)
                chosen = choices(combine(values, found), rows, temperature)
                new = _write(call, rows, ids.tolist(), found.tolist(), chosen)
                if all(row.reason is not None for row in rows):
                    break
                places = [place for place in range(len(rows) * k) if rows[place // k].reason is None]
                judge.copy([place - place % k + chosen[place // k] for place in places], places)
                logits = base.extend(new)[0]


def _write(
    call: Call, rows: Sequence[MethodRow], ids: list[list[int]], found: list[list[float]], chosen: list[int]
) -> list[list[int]]:
    """Write each live row's choice -> what its reader is to read next, nothing where the row has ended."""
    new: list[list[int]] = []
    for row, own, values, place in zip(rows, ids, found, chosen, strict=True):
        if row.reason is None:
            call.extend(row, [own[place]])
            row.score = values[place]
            new.append([own[place]] if row.reason is None else [])
        else:
            new.append([])
    return new
