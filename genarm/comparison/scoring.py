"""What models that took no part say of the answers: the judge's score, and the base's log-probability."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..decoder import GuidedDecoder
from .answered import Answered
from .answers import Answer


@dataclass(frozen=True, slots=True)
class Scored:
    """An answer with r(x, y) of the judge and Σ log π_base(y_t | x, y_<t), EOS included in both where it was drawn."""

    answer: Answer
    score: float
    base_log_prob: float


def key_of(answer: Answer, judge: str) -> str:
    """What a score depends on: the judge's content, the prompt and the answer's tokens."""
    return hashlib.sha256(json.dumps([judge, answer.prompt_ids, answer.tokens]).encode()).hexdigest()


def score_answers(
    answers: Sequence[Answer],
    plain: GuidedDecoder,
    load_judge: Callable[[], Any],
    judge: str,
    kept: Answered,
    batch_size: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Scored]:
    """Every answer that did not fail, scored. Equal answers to one prompt are read once.

    Args:
        plain: the base alone. load_judge: gives the trajectory RM, if it is needed. judge: tells its content apart.
        kept: where scores are, and go batch by batch.
    """
    whole = [answer for answer in answers if not answer.failed]
    keys = [key_of(answer, judge) for answer in whole]
    missing = {key: answer for key, answer in zip(keys, whole, strict=True) if key not in kept.rows}
    if missing:
        model, done = load_judge(), 0
        for batch in _batches(missing, batch_size):
            own = [answer for _, answer in batch]
            found = zip(batch, judge_scores(model, own), base_log_probs(plain, own), strict=True)
            for (key, _), score, log_prob in found:
                kept.append({"key": key, "score": _finite(score), "base_log_prob": _finite(log_prob)})
            done += len(batch)
            report(done, len(missing))
    rows = [kept.rows[key] for key in keys]
    numbers = [[math.nan if row[name] is None else row[name] for name in ("score", "base_log_prob")] for row in rows]
    return [Scored(one, *pair) for one, pair in zip(whole, numbers, strict=True)]


def _finite(value: float) -> float | None:
    """A number as JSON has it, which has no NaN and no infinities."""
    return value if math.isfinite(value) else None


def _batches(missing: dict[str, Answer], size: int) -> Iterator[list[tuple[str, Answer]]]:
    """Of like lengths, the longest first."""
    order = sorted(missing.items(), key=lambda item: -len(item[1].prompt_ids) - len(item[1].tokens))
    for start in range(0, len(order), size):
        yield order[start : start + size]


@torch.no_grad()
def judge_scores(model: Any, answers: Sequence[Answer]) -> list[float]:
    """r(x, y) of a sequence classifier of one label that stands in eval mode, read at the last token."""
    rows = [[*answer.prompt_ids, *answer.tokens] for answer in answers]
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), model.config.pad_token_id or 0)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
    return [float(score) for score in logits.squeeze(-1).double().tolist()]


def base_log_probs(plain: GuidedDecoder, answers: Sequence[Answer]) -> list[float]:
    """Σ log π_base of each answer's tokens, 0 where it has none."""
    found = dict.fromkeys(range(len(answers)), 0.0)
    rows = [place for place, answer in enumerate(answers) if answer.tokens]
    if rows:
        out = plain.score([answers[row].prompt_ids for row in rows], [answers[row].tokens for row in rows])
        found.update(zip(rows, map(float, out.model_totals[:, 0].tolist()), strict=True))
    return list(found.values())
