"""Gaps between decoding token by token and the product over whole answers: as a table, and as the record for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..preferences.statistics import Estimate
from .gap import Gap, in_words
from .pareto import Floats

NONE = "–"


def show(gaps: Sequence[Gap], console: Console) -> None:
    """Print a table for each setting of weights, then what they say in words."""
    for found in gaps:
        console.print(_table(found))
    console.print(NOTE, markup=False, highlight=False)
    for found in gaps:
        console.print(in_words(found), markup=False, highlight=False)


def as_record(found: Gap, prompt_ids: Sequence[str | int], plain: Floats) -> dict[str, Any]:
    """Everything that was measured, in nats and seconds; what is not finite is null. ``plain``: [P], E[Σ log Z_t]."""
    return {
        "weights": dict(zip(found.cell.names, found.cell.weights, strict=True)),
        "best_bound": {"particles": found.pooled, **_bounds(found.best)},
        "particles": [
            {
                "particles": one.particles,
                "log_evidence": _bounds(one.log_evidence),
                "bound": _bounds(one.bound),
                "left": _bounds(one.left),
                "share_of_best_bound": _number(one.share),
                "tokens_per_answer": _number(one.tokens),
                "seconds_per_answer": dict(zip(("alone", "in_batches"), map(_number, one.seconds), strict=True)),
            }
            for one in found.closed
        ],
        "prompts": [
            {"id": name, "sum_log_normalizers": _number(own), "best_bound": _number(bound)}
            for name, own, bound in zip(prompt_ids, plain, found.by_prompt, strict=True)
        ],
        "in_words": in_words(found),
    }


def _table(found: Gap) -> Table:
    table = Table(title=escape(found.cell.label), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("particles", no_wrap=True)
    for name in ("nearer by\nnats [95%]", "left", "closed", "tokens", "seconds\nalone", "seconds\nbatches"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found.closed:
        plain = one.particles == 1
        table.add_row(
            "1 (plain)" if plain else f"{one.particles:,}",
            NONE if plain else _bracketed(one.bound),
            _plain(one.left.value),
            NONE if plain or math.isnan(one.share) else f"{100 * one.share:.0f}%".replace("-", "−"),
            f"{one.tokens:.1f}",
            *map(_seconds, one.seconds),
        )
    table.add_row(f"all {found.pooled:,}", _bracketed(found.best))
    return table


NOTE = (
    "Nats per answer, means over prompts. nearer by: E[log Ẑ] less plain decoding's E[Σ log Z_t], a lower bound of how "
    "far plain decoding is from the product over whole answers. all: the samples of the row above as one estimate. "
    "left: what it is beyond a row. Tokens and seconds per answer, with one answer at a time and in batches."
)


def _bracketed(found: Estimate) -> str:
    if math.isnan(found.low):
        return _plain(found.value)
    return f"{_plain(found.value)} [{_plain(found.low)}, {_plain(found.high)}]"


def _plain(value: float) -> str:
    digits = 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else NONE


def _seconds(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else NONE


def _bounds(found: Estimate) -> dict[str, float | None]:
    return {"value": _number(found.value), "low": _number(found.low), "high": _number(found.high)}


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None
