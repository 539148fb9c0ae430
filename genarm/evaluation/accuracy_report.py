"""Accuracies of many scorers on many data sets: measured, and as the record that goes to JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .accuracy import Accuracy, Part, accuracy, ordered_right
from .choices import Kind
from .lengths import LengthRule, length_rules
from .pair_sets import PairSet
from .scorers import Floats, Scores
from .statistics import Estimate, paired_difference

Reduction = Literal["sum", "mean", "score"]


@dataclass(frozen=True, slots=True)
class Row:
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
    rows: list[Row]
    rules: list[LengthRule]
    differences: list[Difference]


def reports(sets: Sequence[PairSet], scores: Sequence[Scores]) -> list[Report]:
    """One report a data set, rows in the order of ``scores``."""
    return [_report(pairs, scores, number) for number, pairs in enumerate(sets)]


def _report(pairs: PairSet, scores: Sequence[Scores], number: int) -> Report:
    rows = [
        Row(
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


def _row(row: Row) -> dict[str, Any]:
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
