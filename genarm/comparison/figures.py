"""What the answers of a method come to: figures with 95% intervals over prompts, which are resampled with all seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..preferences.statistics import Estimate, mean, ratio
from .answers import Answer
from .config import BASE
from .judging import Verdict
from .length_control import length_controlled
from .metrics import distinct_answers, diversity
from .scoring import Scored

TIMED_TOKENS = 128
Found = Estimate | None


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """One row of the table.

    score: the judge RM's mean score. gain: the same minus plain decoding's to the same prompts and seeds.
    diversity: mean Π (1 − rep_n). distinct: the share of distinct (prompt, answer).
    base_nats: −log π_base per token of the answers. kl: Σ (log p − log π_base), mean per answer, an estimate of KL(p ‖
    π_base) in nats; None where the method has no density p that is known.
    tokens: mean length with EOS. unfinished: the share of answers that ended by their length.
    forwarded: tokens that each model read, per token of the answers. seconds: for 128 tokens of answers, batches as
    they were run. cost: those seconds over plain decoding's.
    """

    label: str
    answers: int
    failed: int
    score: Found = None
    gain: Found = None
    diversity: Found = None
    distinct: float | None = None
    base_nats: Found = None
    kl: Found = None
    tokens: Found = None
    unfinished: float | None = None
    forwarded: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    cost: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return {name: as_json(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class JudgeFigures:
    """One method against the reference under one judge: shares of comparisons that it wins, a tie being half a win.

    controlled: the win rate with the difference of lengths (in characters) taken out. consistent: the share of
    comparisons with one verdict in both orders. unread: replies that name no verdict; both orders of such a comparison
    are left out.
    """

    label: str
    reference: str
    judge: str
    comparisons: int
    unread: int
    wins: Found
    controlled: Found
    consistent: float | None

    def as_dict(self) -> dict[str, Any]:
        return {name: as_json(value) for name, value in asdict(self).items()}


def as_json(value: Any) -> Any:
    """Numbers to six digits, and null for NaN, which JSON has not."""
    if isinstance(value, dict):
        return {name: as_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def method_figures(answers: Sequence[Answer], scored: Sequence[Scored]) -> list[MethodFigures]:
    """Every method's row, in the order of ``answers``. ``scored``: those that did not fail."""
    plain = {(one.answer.prompt_id, one.answer.seed): one.score for one in scored if one.answer.method == BASE}
    own_seconds = {label: _seconds([a for a in answers if a.method == label]) for label in _labels(answers)}
    return [
        _figures(
            label,
            [answer for answer in answers if answer.method == label],
            [one for one in scored if one.answer.method == label],
            plain,
            seconds,
            None if not (seconds and own_seconds.get(BASE)) else seconds / (own_seconds[BASE] or 1.0),
        )
        for label, seconds in own_seconds.items()
    ]


def _labels(answers: Sequence[Answer]) -> list[str]:
    return list(dict.fromkeys(answer.method for answer in answers))


def _seconds(answers: Sequence[Answer]) -> float | None:
    """For 128 tokens of answers; None where nothing was answered."""
    tokens = sum(len(answer.tokens) for answer in answers)
    return TIMED_TOKENS * sum(answer.seconds for answer in answers) / tokens if tokens else None


def _figures(
    label: str,
    answers: Sequence[Answer],
    scored: Sequence[Scored],
    plain: Mapping[tuple[Any, int], float],
    seconds: float | None,
    cost: float | None,
) -> MethodFigures:
    failed = len(answers) - len(scored)
    if not scored:
        return MethodFigures(label, len(answers), failed)
    whole = [one.answer for one in scored]
    prompts = [answer.prompt_id for answer in whole]
    lengths = [len(answer.tokens) for answer in whole]
    paired = [one for one in scored if (one.answer.prompt_id, one.answer.seed) in plain]
    gains = [one.score - plain[one.answer.prompt_id, one.answer.seed] for one in paired]
    return MethodFigures(
        label=label,
        answers=len(answers),
        failed=failed,
        score=mean([one.score for one in scored], prompts),
        gain=mean(gains, [one.answer.prompt_id for one in paired]) if gains and label != BASE else None,
        diversity=mean([diversity(answer.text) for answer in whole], prompts),
        distinct=distinct_answers([(str(answer.prompt_id), answer.text) for answer in whole]),
        base_nats=ratio([-one.base_log_prob for one in scored], lengths, prompts) if any(lengths) else None,
        kl=_divergence(scored),
        tokens=mean(lengths, prompts),
        unfinished=sum(answer.finish_reason == "length" for answer in whole) / len(whole),
        forwarded=_forwarded(whole),
        seconds=seconds,
        cost=cost,
    )


def _divergence(scored: Sequence[Scored]) -> Found:
    """Mean Σ (log p − log π_base); None unless every answer has a log p."""
    terms = [one.answer.log_prob - one.base_log_prob for one in scored if one.answer.log_prob is not None]
    return mean(terms, [one.answer.prompt_id for one in scored]) if len(terms) == len(scored) else None


def _forwarded(answers: Sequence[Answer]) -> dict[str, float]:
    tokens = sum(len(answer.tokens) for answer in answers)
    names = dict.fromkeys(name for answer in answers for name in answer.forwarded)
    return {name: sum(answer.forwarded.get(name, 0) for answer in answers) / max(tokens, 1) for name in names}


def judge_figures(verdicts: Sequence[Verdict]) -> list[JudgeFigures]:
    """Every method's row under every judge."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.answer.method, verdict.model), []).append(verdict)
    return [_judged(label, model, own) for (label, model), own in groups.items()]


def _judged(label: str, model: str, verdicts: Sequence[Verdict]) -> JudgeFigures:
    read = [verdict for verdict in verdicts if verdict.preference is not None]
    unread = sum(order is None for verdict in verdicts for order in verdict.orders)
    reference = verdicts[0].reference.method
    if not read:
        return JudgeFigures(label, reference, model, 0, unread, None, None, None)
    wins = [verdict.preference or 0.0 for verdict in read]
    prompts = [verdict.answer.prompt_id for verdict in read]
    differences = [len(verdict.answer.text) - len(verdict.reference.text) for verdict in read]
    consistent = sum(verdict.orders[0] == verdict.orders[1] for verdict in read) / len(read)
    controlled = length_controlled(wins, differences, prompts)
    return JudgeFigures(label, reference, model, len(read), unread, mean(wins, prompts), controlled, consistent)


def agreement(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """For each two judges the share of comparisons, read by both, in which they prefer the same answer or neither."""
    by_judge: dict[str, dict[tuple[Any, ...], float]] = {}
    for verdict in verdicts:
        if verdict.preference is not None:
            place = (verdict.answer.method, verdict.answer.prompt_id, verdict.answer.seed)
            by_judge.setdefault(verdict.model, {})[place] = verdict.preference
    names, found = list(by_judge), {}
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            shared = by_judge[first].keys() & by_judge[second].keys()
            same = sum(_side(by_judge[first][key]) == _side(by_judge[second][key]) for key in shared)
            if shared:
                found[f"{first} and {second}"] = same / len(shared)
    return found


def _side(preference: float) -> int:
    return (preference > 0.5) - (preference < 0.5)
