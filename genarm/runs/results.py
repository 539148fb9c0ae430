"""Rows of an output: what came of a row, or what is wrong with it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ..errors import GenARMError
from ..request.output import GenerationOutput
from .rows import COUNTS, Row

Result = dict[str, Any]


def result_of(
    row: Row, weights: Mapping[str, float], out: GenerationOutput, index: int, tokens: bool = False
) -> Result:
    """A row of the output: what came of row ``index`` of a call, decoded with these weights."""
    if index in out.errors:
        return failure(row, out.errors[index])
    count = len(out.tokens[index])
    assert out.texts is not None
    result: Result = {**row.head, "text": out.texts[index], "weights": weights, "token_count": count}
    if out.guided is not None:
        result["guided_count"] = int(out.guided[index].sum())
    if out.speculated is not None:
        result |= zip(COUNTS, out.speculated[index].tolist(), strict=True)
    if tokens:
        result["tokens"] = out.tokens[index].tolist()
    if out.logprobs is not None and out.model_logprobs is not None:
        result["logprob_sum"] = _rounded(float(out.logprobs[index, :count].double().sum()))
        sums = out.model_logprobs[index, :count].double().sum(0).tolist()
        result["logprob_sums"] = {name: _rounded(value) for name, value in zip(out.model_names, sums, strict=True)}
    if out.scores is not None:
        result["score"] = _rounded(float(out.scores[index]))
    if out.log_evidence is not None:
        result["log_evidence"] = _rounded(float(out.log_evidence[index]))
    return {**result, "finish_reason": out.finish_reasons[index]}


def _rounded(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def failure(row: Row, error: GenARMError) -> Result:
    """A row of the output: what is wrong with it."""
    # The row of a batch means nothing to a reader.
    text = re.sub(r"^(row|prompt) \d+[:,] ", "", " ".join(str(error).split()))
    return {**row.head, "error": text, "finish_reason": "error"}
