"""The figures of a comparison as tables: for a terminal of 80 columns, and for a page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from ..preferences.statistics import Estimate
from .figures import JudgeFigures, MethodFigures

NONE = "–"
QUALITY = ("method", "score [95%]", "against base", "KL", "base nats", "diversity", "distinct")
COSTS = ("method", "tokens", "unfinished", "tokens forwarded per token", "s per 128", "cost")
JUDGED = ("method", "judge", "wins, % [95%]", "length-controlled", "consistent", "n")


def tables(figures: Sequence[MethodFigures], judged: Sequence[JudgeFigures]) -> list[Table]:
    """What the answers are like, what they cost, and what language models prefer."""
    found = [
        _table("What the answers are like", QUALITY, [_quality(row) for row in figures]),
        _table("What they cost", COSTS, [_costs(row) for row in figures]),
    ]
    if judged:
        title = f"Which answer is preferred, against {judged[0].reference}"
        found.append(_table(title, JUDGED, [_judgement(row) for row in judged]))
    return found


def markdown(figures: Sequence[MethodFigures], judged: Sequence[JudgeFigures]) -> str:
    """The same as tables of a Markdown page."""
    parts = [_lines(QUALITY, [_quality(row) for row in figures]), _lines(COSTS, [_costs(row) for row in figures])]
    if judged:
        parts.append(_lines(JUDGED, [_judgement(row) for row in judged]))
    return "\n\n".join(parts) + "\n"


def _quality(row: MethodFigures) -> list[str]:
    return [
        row.label,
        interval(row.score),
        interval(row.gain, signed=True),
        value(row.kl),
        value(row.base_nats),
        value(row.diversity),
        number(row.distinct),
    ]


def _costs(row: MethodFigures) -> list[str]:
    forwarded = ", ".join(f"{name} {number(count)}" for name, count in row.forwarded.items())
    unfinished = NONE if row.unfinished is None else f"{100 * row.unfinished:.0f}%"
    failed = f" ({row.failed} failed)" if row.failed else ""
    return [row.label + failed, value(row.tokens, 1), unfinished, forwarded, number(row.seconds), number(row.cost)]


def _judgement(row: JudgeFigures) -> list[str]:
    unread = f" ({row.unread} unread)" if row.unread else ""
    consistent = NONE if row.consistent is None else f"{100 * row.consistent:.0f}%"
    rates = [NONE if rate is None else str(rate) for rate in (row.wins, row.controlled)]
    return [row.label, row.judge, *rates, consistent, f"{row.comparisons}{unread}"]


def interval(found: Estimate | None, signed: bool = False) -> str:
    if found is None or not math.isfinite(found.value):
        return NONE
    sign = "+" if signed else ""
    return f"{found.value:{sign}.2f} [{found.low:{sign}.2f}, {found.high:{sign}.2f}]".replace("-", "−")


def value(found: Estimate | None, digits: int = 2) -> str:
    return NONE if found is None or not math.isfinite(found.value) else f"{found.value:.{digits}f}".replace("-", "−")


def number(found: float | None) -> str:
    """To three digits at least: 0.041, 1.06, 17.9, 131."""
    if found is None or not math.isfinite(found):
        return NONE
    digits = 2 if abs(found) < 10 else 1 if abs(found) < 100 else 0
    return f"{found:.{3 if abs(found) < 0.1 else digits}f}"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        text = head in {"method", "judge"} or head.startswith("tokens forwarded")
        table.add_column(head, justify="left" if text else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *escaped))
