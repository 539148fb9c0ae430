"""The models of one number that a method is given: trajectory RMs and value heads, loaded once per decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..decoder import GuidedDecoder
from ..engine.reader import reading
from ..errors import InvalidArgumentError, NumericalError
from ..models.scalar import ScalarModel, scalar_model
from ..request.inputs import PromptInput
from ..request.responses import Responses, count_responses, read_responses
from ..scoring import response_errors, score_options

# A path or hub id, a loaded classifier, or one that `scalar` has made.
Scorer = str | Path | nn.Module | ScalarModel
_LOADED: WeakKeyDictionary[Any, dict[Any, ScalarModel]] = WeakKeyDictionary()


def scalar(decoder: GuidedDecoder, given: Scorer, name: str) -> ScalarModel:
    """The model that setting ``name`` of a method means, on the decoder's device and in its dtype; what was loaded
    from a path, or put together from a module, is kept as long as the decoder.

    Raises:
        GenARMError: it is none, or none of the decoder's vocabulary.
    """
    if isinstance(given, ScalarModel):
        return given
    if not isinstance(given, str | Path | nn.Module) or given == "":
        raise InvalidArgumentError(
            f"{name} is {given!r}: pass the path of a trajectory RM (genarm train trajectory-rm makes one) or a loaded "
            "sequence classifier"
        )
    base = decoder.models[0]
    kept = _LOADED.setdefault(base.module, {})
    key = (name, given if isinstance(given, nn.Module) else str(given))
    if key not in kept:
        fuse = decoder.settings.engine != "hf"
        kept[key] = scalar_model(name, given, decoder.source, base.runs_on, base.vocab_size, decoder.tokenizer, fuse)
    return kept[key]


def response_scores(
    decoder: GuidedDecoder,
    scorer: ScalarModel,
    prompts: PromptInput,
    responses: Responses,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """What a model of one number says of each response behind its prompt, [B] float32 on the CPU. They are given as to
    ``GuidedDecoder.score``.

    Raises:
        GenARMError: one of them cannot be read, or its score is no number.
    """
    plain = decoder.only()
    request = plain.prepare(prompts, attention_mask, **score_options(prompts, responses, {}))
    if (count := count_responses(responses)) != request.batch:
        raise InvalidArgumentError(f"{count} responses were given for {request.batch} prompts: give one each")
    found = read_responses(responses, request.streams[0].host, plain.facts(), request.decode)
    for _, error in sorted({**response_errors(request, plain.facts(), found), **request.errors}.items()):
        raise error
    prompt_ids = request.streams[0].host
    scores = text_scores(scorer, [[*prompt_ids[row].tolist(), *own] for row, own in enumerate(found)], plain)
    if bad := (~scores.isfinite()).nonzero().flatten().tolist():
        raise NumericalError(f"row {bad[0]}: {scorer.name} gives {float(scores[bad[0]])}: check its weights and dtype")
    return scores


def text_scores(scorer: ScalarModel, texts: Sequence[Sequence[int]], decoder: GuidedDecoder) -> Tensor:
    """What a model of one number says of each text of tokens, [N] float32 on the CPU, read in batches of one length
    about, of the decoder's ``max_batch_size``."""
    scores = torch.empty(len(texts))
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    for start in range(0, len(order), decoder.max_batch_size):
        rows = order[start : start + decoder.max_batch_size]
        longest = max(len(texts[row]) for row in rows)
        with reading(scorer.models, scorer.backbones, len(rows), longest, longest) as reader:
            scores[rows] = reader.prefill([texts[row] for row in rows])[0][:, 0].float().cpu()
    return scores
