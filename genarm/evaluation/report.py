"""Accuracies of many scorers on many data sets: measured, as the record that goes to JSON, and as tables
that fit 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..preferences.statistics import Estimate, paired_difference
from .accuracy import BUCKET_HEADS, Accuracy, LengthRule, Part, accuracy, length_rules, ordered_right
from .choices import Kind
from .pair_sets import PairSet
from .scorers import Floats, Scores

Reduction = Literal["sum", "mean", "score"]


@dataclass(frozen=True, slots=True)
class ScorerRow:
    """One scorer's accuracy. ``reduction``: by the sum over response tokens, their mean, or a score of its own."""

    name: str
    kind: Kind
    reduction: Reduction
    beta: float | None
    accuracy: Accuracy

    @property
    def label(self) -> str:
        if self.reduction == "mean":
            return f"{self.name}, per token"
        return "base alone" if self.kind == "base" else self.name


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy of ``name`` minus that of ``other`` on the same pairs, both by sum or score."""

    name: str
    other: str
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured on one data set."""

    pairs: PairSet
    rows: list[ScorerRow]
    rules: list[LengthRule]
    differences: list[Difference]


def reports(sets: Sequence[PairSet], scores: Sequence[Scores]) -> list[Report]:
    """One report per data set, rows in the order of ``scores``."""
    return [_report(pairs, scores, number) for number, pairs in enumerate(sets)]


def _report(pairs: PairSet, scores: Sequence[Scores], number: int) -> Report:
    rows = [
        ScorerRow(
            score.choice.name,
            score.choice.kind,
            reduction,
            score.beta,
            accuracy(values, pairs.lengths, pairs.clusters, pairs.values),
        )
        for score in scores
        for reduction, values in _reduced(score, score.values[number], pairs)
    ]
    return Report(pairs, rows, length_rules(pairs.lengths, pairs.clusters), _differences(scores, number, pairs))


def _reduced(score: Scores, values: Floats, pairs: PairSet) -> Iterator[tuple[Reduction, Floats]]:
    if score.choice.kind == "trajectory-rm":
        yield "score", values
    else:
        yield "sum", values
        yield "mean", values / pairs.lengths


def _differences(scores: Sequence[Scores], number: int, pairs: PairSet) -> list[Difference]:
    """The first scorer that was asked for against each other one, the base last."""
    asked = [score for score in scores if score.choice.kind != "base"]
    others = [*asked[1:], *(score for score in scores if score.choice.kind == "base")]
    if not asked:
        return []
    own = ordered_right(asked[0].values[number])
    return [
        Difference(
            asked[0].choice.name,
            other.choice.name,
            paired_difference(own, ordered_right(other.values[number]), pairs.clusters),
        )
        for other in others
    ]


def as_record(report: Report) -> dict[str, Any]:
    """The report as JSON takes it; shares and their intervals are between 0 and 1."""
    pairs = report.pairs
    return {
        "name": pairs.name,
        "path": pairs.path,
        "pairs": len(pairs.pairs),
        "clusters": len(set(pairs.clusters)),
        "truncation": pairs.truncation,
        "mean_response_tokens": dict(zip(("chosen", "rejected"), pairs.lengths.mean(0).round(2).tolist(), strict=True)),
        "length_baselines": [
            {"name": rule.name, "pairs": rule.pairs, "equal": rule.equal, "accuracy": _estimate(rule.estimate)}
            for rule in report.rules
        ],
        "scorers": [_row(row) for row in report.rows],
        "differences": [
            {"name": found.name, "less": found.other, "difference": found.estimate.as_dict()}
            for found in report.differences
        ],
    }


def _row(row: ScorerRow) -> dict[str, Any]:
    found = row.accuracy
    record = {
        "name": row.name,
        "kind": row.kind,
        "reduction": row.reduction,
        "pairs": found.pairs,
        "ties": found.ties,
        "undefined": found.undefined,
        "accuracy": found.estimate.as_dict(),
        "length_balanced_accuracy": _estimate(found.balanced),
        "picks_longer": _estimate(found.picks_longer),
        "length_buckets": [_part(part) for part in found.buckets],
    }
    if row.beta is not None:
        record["beta"] = row.beta
    if found.parts:
        record["by"] = [_part(part) for part in found.parts]
    return record


def _part(part: Part) -> dict[str, Any]:
    return {"name": part.name, "pairs": part.pairs, "accuracy": _estimate(part.estimate)}


def _estimate(found: Estimate | None) -> dict[str, float] | None:
    return None if found is None else found.as_dict()


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
            console.print(_difference_table(report))
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


def _nth(row: ScorerRow, number: int) -> Estimate | None:
    accuracy: Accuracy = row.accuracy
    return accuracy.parts[number].estimate


def _difference_table(report: Report) -> Table:
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
