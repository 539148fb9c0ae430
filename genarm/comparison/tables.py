"""The figures of a comparison as tables: for a terminal of 80 columns, and for a page."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from ..preferences.statistics import Estimate
from .figures import JudgeFigures, MethodFigures

NONE = "–"
QUALITY = ("method", "score [95%]", "against base [95%]", "KL", "nats")
SHAPE = ("method", "diversity", "distinct", "tokens", "unfinished", "failed")
COSTS = ("method", "tokens forwarded per token", "s per 128", "cost")
JUDGED = ("method", "judge", "wins, % [95%]", "length-controlled", "consistent", "n")
TEXTS = {"method", "judge", "tokens forwarded per token"}


def tables(figures: Sequence[MethodFigures], judged: Sequence[JudgeFigures]) -> list[Table]:
    """What the answers are like, what they cost, and what language models prefer."""
    parts = _parts(figures, judged)
    return [_table(title, heads, rows) for title, (heads, rows) in parts.items()]


def markdown(figures: Sequence[MethodFigures], judged: Sequence[JudgeFigures]) -> str:
    """The same as tables of a Markdown page."""
    return "\n\n".join(_lines(heads, rows) for heads, rows in _parts(figures, judged).values()) + "\n"


def _parts(
    figures: Sequence[MethodFigures], judged: Sequence[JudgeFigures]
) -> dict[str, tuple[Sequence[str], list[list[str]]]]:
    """Tables by their titles: heads, and cells line by line."""
    parts: dict[str, tuple[Sequence[str], list[list[str]]]] = {
        "How good the answers are": (QUALITY, [_quality(row) for row in figures]),
        "What they are like": (SHAPE, [_shape(row) for row in figures]),
        "What they cost": (COSTS, [_costs(row) for row in figures]),
    }
    if judged:
        parts[f"Which are preferred to those of {judged[0].reference}"] = JUDGED, [_judgement(row) for row in judged]
    return parts


def _quality(row: MethodFigures) -> list[str]:
    return [row.label, interval(row.score), interval(row.gain, signed=True), value(row.kl), value(row.base_nats)]


def _shape(row: MethodFigures) -> list[str]:
    unfinished = NONE if row.unfinished is None else f"{100 * row.unfinished:.0f}%"
    return [row.label, value(row.diversity), number(row.distinct), value(row.tokens, 1), unfinished, f"{row.failed}"]


def _costs(row: MethodFigures) -> list[str]:
    forwarded = ", ".join(f"{name} {number(count)}" for name, count in row.forwarded.items())
    return [row.label, forwarded or NONE, number(row.seconds), number(row.cost)]


def _judgement(row: JudgeFigures) -> list[str]:
    unread = f" ({row.unread} unread)" if row.unread else ""
    consistent = NONE if row.consistent is None else f"{100 * row.consistent:.0f}%"
    rates = [NONE if rate is None else str(rate) for rate in (row.wins, row.controlled)]
    return [row.label, row.judge, *rates, consistent, f"{row.comparisons}{unread}"]


def interval(found: Estimate | None, signed: bool = False) -> str:
    if found is None or not math.isfinite(found.value):
        return NONE
    sign = "+" if signed else ""
    return _minus(f"{found.value:{sign}.2f} [{found.low:{sign}.2f}, {found.high:{sign}.2f}]")


def value(found: Estimate | None, digits: int = 2) -> str:
    return NONE if found is None or not math.isfinite(found.value) else _minus(f"{found.value:.{digits}f}")


def _minus(text: str) -> str:
    """With a real minus sign, and none before a zero."""
    return re.sub(r"-(0\.0+)(?!\d)", r"\1", text).replace("-", "−")


def number(found: float | None) -> str:
    """To three digits at least: 0.041, 1.06, 17.9, 131."""
    if found is None or not math.isfinite(found):
        return NONE
    digits = 2 if abs(found) < 10 else 1 if abs(found) < 100 else 0
    return f"{found:.{3 if abs(found) < 0.1 else digits}f}"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        folded = head in TEXTS
        table.add_column(head, justify="left" if folded else "right", overflow="fold", no_wrap=not folded)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *escaped))
