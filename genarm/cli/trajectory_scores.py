"""Scores of a sweep's texts by trajectory RMs, in the place of what reward models say of their own objectives."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from ..evaluation.choices import Choice
from ..evaluation.pareto import Floats
from ..evaluation.pareto_texts import Texts
from ..evaluation.precision import scoring_dtype
from ..evaluation.scorers import quiet, trajectory_rm
from ..models.options import Source, resolve_device
from ..preferences.chat import pair_tokenizer
from ..preferences.encoding import EncodedPair
from ..preferences.scoring import sequence_scores
from ..runs.encode import RowEncoder
from ..runs.rows import Row
from .console import say
from .sweeping import Sweeping

BATCH = 32  # pairs of texts scored at once


def trajectory_scores(
    choices: Sequence[Choice], texts: Texts, prompts: Sequence[Row], sweeping: Sweeping
) -> dict[str, Floats]:
    """Each trajectory RM's score of every text [P][C][N], drawn for ``prompts`` [P], by the name of its objective."""
    if not choices:
        return {}
    models, given = sweeping.given.models, sweeping.given
    device = resolve_device(models.device)
    dtype = scoring_dtype(models.dtype, device, [choice.path for choice in choices], say)
    source = Source(dtype, device, models.trust_remote_code)
    shape = len(texts), len(texts[0]), len(texts[0][0])
    found: dict[str, Floats] = {}
    with quiet():
        tokenizer = pair_tokenizer(sweeping.base, models.trust_remote_code)
        encoder = RowEncoder.of(tokenizer, given.chat, given.system)
        pairs = [
            pair
            for row, cells in zip(prompts, texts, strict=True)
            for pair in _pairs(encoder.encode(row), list(chain.from_iterable(cells)))
        ]
        for choice in choices:
            model = trajectory_rm(sweeping.base, choice, source, tokenizer)
            scores = sequence_scores(model, pairs, tokenizer.pad_token_id, BATCH, sys.stderr.isatty())
            flat = scores.view(shape[0], -1)[:, : shape[1] * shape[2]]  # without the text that made a pair even
            found[choice.name] = flat.reshape(shape).numpy()
    return found


def _pairs(prompt: list[int], rows: Sequence[Mapping[str, Any]]) -> Iterator[EncodedPair]:
    """A prompt's texts two by two, as pairs are scored; of an odd number the last stands twice."""
    for place in range(0, len(rows), 2):
        one, other = rows[place], rows[min(place + 1, len(rows) - 1)]
        yield {"prompt_ids": prompt, "chosen_ids": one["tokens"], "rejected_ids": other["tokens"]}
