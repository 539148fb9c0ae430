"""Which of a call's rows and ids the models can read that stand beside its base: a method's trajectory RM, value head
or reward model, or a ``terminal`` reward. As in guided decoding no id is clamped to another one in silence."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from .errors import GenARMError
from .models.causal import CausalModel
from .models.positions import Positions
from .request.options import Request
from .request.prompts import prompt_errors

NO_LIMIT = 2**31


def admitted(request: Request, models: Sequence[CausalModel], tokenizer: Any) -> Request:
    """The request in which the rows fail whose prompts these models cannot read, and the ids that one of them lacks
    cannot be drawn; a warning says so where such an id means something to the tokenizer."""
    limit = Positions(models).limit(NO_LIMIT)
    errors: dict[int, GenARMError] = dict(request.errors)
    for model in models:
        found = prompt_errors(request.streams[0], model.input_vocab_size, limit, request.max_new_tokens, model.name)
        errors.update({row: error for row, error in found.items() if row not in errors})
    least = min(models, key=lambda model: model.input_vocab_size)
    known = replace(request, errors=errors)
    return known if least.input_vocab_size >= request.vocab_size else _without(known, least, tokenizer)


def _without(request: Request, model: CausalModel, tokenizer: Any) -> Request:
    """The request without the ids that ``model`` lacks."""
    known, bias = model.input_vocab_size, request.guidance.bias
    unread = torch.arange(request.vocab_size, device=request.device) >= known
    masked = torch.where(unread, -torch.inf, 0.0 if bias is None else bias)
    named = request.vocab_size if tokenizer is None else len(tokenizer)  # what lies beyond is padding
    if known < named:
        ends = [token for token in request.eos_ids if token >= known]
        lost = f" (among them {ends[0]}, which ends a text)" if ends else ""
        warnings.warn(
            f"the base's ids from {known} on cannot be drawn{lost}: {model.name!r} has {known} ids", stacklevel=5
        )
    return replace(request, guidance=replace(request.guidance, bias=masked))
