"""Which of a call's rows and ids the models can read that stand beside its base: a method's trajectory RM, value head
or reward model. As in guided decoding no id is clamped to another one in silence."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch

from ..engine.batch import all_failed
from ..models.positions import Positions
from ..request.prompts import prompt_errors
from .call import Call, Readable

NO_LIMIT = 2**31


def admit(call: Call, *readables: Readable) -> None:
    """Fail the rows whose prompts these models cannot read, and keep the ids that one of them lacks from being drawn.

    Raises:
        GenARMError: every row failed.
    """
    models = [model for readable in readables for model in readable.models]
    limit = Positions(models).limit(NO_LIMIT)
    for model in models:
        found = prompt_errors(call.request.streams[0], model.input_vocab_size, limit, call.limit, model.name)
        call.errors.update({row: error for row, error in found.items() if row not in call.errors})
    call.rows = [row for row in call.rows if row.index not in call.errors]
    if not call.rows:
        raise all_failed(dict(sorted(call.errors.items())))
    least = min(models, key=lambda model: model.input_vocab_size)
    if least.input_vocab_size < call.request.vocab_size:
        _exclude(call, least.name, least.input_vocab_size)


def _exclude(call: Call, name: str, known: int) -> None:
    request, tokenizer = call.request, call.decoder.tokenizer
    bias = request.guidance.bias
    unread = torch.arange(request.vocab_size, device=request.device) >= known
    masked = torch.where(unread, -torch.inf, 0.0 if bias is None else bias)
    call.request = replace(request, guidance=replace(request.guidance, bias=masked))
    named = request.vocab_size if tokenizer is None else len(tokenizer)  # what lies beyond is padding
    if known < named:
        ends = [token for token in request.eos_ids if token >= known]
        lost = f" (among them {ends[0]}, which ends a text)" if ends else ""
        warnings.warn(f"the base's ids from {known} on cannot be drawn{lost}: {name!r} has {known} ids", stacklevel=4)
