"""Accuracies as tables that fit 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .accuracy import Accuracy, Part
from .accuracy_report import Report, Row
from .lengths import BUCKET_HEADS, LengthRule
from .statistics import Estimate

NONE = "–"
NOTE = "balanced: with pairs weighed so that length alone gets 50%; picks longer: how often the longer response wins"


def show(reports: Sequence[Report], console: Console, by: str | None = None) -> None:
    """Print every report: accuracies, length buckets, and accuracy by ``by`` where it was split."""
    for report in reports:
        console.print(_accuracies(report))
        _say_missing(report, console)
        console.print(_buckets(report))
        if by is not None:
            console.print(_parts(report, by))
        if report.differences:
            console.print(_differences(report))
    console.print(NOTE, highlight=False)


def _table(title: str, *columns: str, texts: Sequence[str] = ("scorer",)) -> Table:
    """Columns in ``texts`` are folded where they do not fit; the others are figures, which never are."""
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        text = name in texts
        table.add_column(escape(name), justify="left" if text else "right", overflow="fold", no_wrap=not text)
    return table


def _accuracies(report: Report) -> Table:
    count, clusters = len(report.pairs.pairs), len(set(report.pairs.clusters))
    resampled = f"; intervals over {clusters:,} clusters" if clusters < count else ""
    title = f"{report.pairs.name}: {count:,} pairs{resampled}"
    table = _table(title, "scorer", "accuracy, % [95%]", "balanced", "picks longer", "ties")
    for row in report.rows:
        found = row.accuracy
        ties = f"{found.ties}" + (f" + {found.undefined} NaN" if found.undefined else "")
        table.add_row(escape(row.label), str(found.estimate), _value(found.balanced), _value(found.picks_longer), ties)
    for rule in report.rules:
        table.add_row(rule.name, _rule(rule), "", "", f"{rule.equal}", style="dim")
    return table


def _say_missing(report: Report, console: Console) -> None:
    if report.pairs.note:
        console.print(f"{report.pairs.name}: {report.pairs.note}", soft_wrap=True, markup=False, highlight=False)


def _buckets(report: Report) -> Table:
    counts = [part.pairs for part in report.rows[0].accuracy.buckets]
    heads = [f"{head}\nn = {count:,}" for head, count in zip(BUCKET_HEADS, counts, strict=True)]
    table = _table(f"{report.pairs.name}: accuracy, % and 95% interval, by which response is longer", "scorer", *heads)
    for row in report.rows:
        table.add_row(escape(row.label), *(_short(part) for part in row.accuracy.buckets))
    return table


def _parts(report: Report, by: str) -> Table:
    rows = [row for row in report.rows if row.reduction != "mean"]
    table = _table(
        f"{report.pairs.name}: accuracy by {by}", by, "pairs", "scorer", "accuracy, % [95%]", texts=(by, "scorer")
    )
    for number, part in enumerate(rows[0].accuracy.parts):
        for place, row in enumerate(rows):
            first = (escape(part.name), f"{part.pairs:,}") if place == 0 else ("", "")
            table.add_row(*first, escape(row.label), _interval(_nth(row, number)))
    return table


def _nth(row: Row, number: int) -> Estimate | None:
    accuracy: Accuracy = row.accuracy
    return accuracy.parts[number].estimate


def _differences(report: Report) -> Table:
    table = _table(
        f"{report.pairs.name}: differences on the same pairs",
        "scorer",
        "less",
        "points [95%]",
        texts=("scorer", "less"),
    )
    for found in report.differences:
        other = "base alone" if found.other == "base" else found.other
        table.add_row(escape(found.name), escape(other), str(found.estimate))
    return table


def _rule(rule: LengthRule) -> str:
    return _interval(rule.estimate)


def _interval(found: Estimate | None) -> str:
    return NONE if found is None else str(found)


def _value(found: Estimate | None) -> str:
    return NONE if found is None else f"{100 * found.value:.1f}"


def _short(part: Part) -> str:
    found = part.estimate
    return NONE if found is None else f"{100 * found.value:.0f} {100 * found.low:.0f}–{100 * found.high:.0f}"
