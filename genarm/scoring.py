"""Scores of given responses under the guided distribution: what ``GuidedDecoder.score`` does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .engine.batch import all_failed, tell_of_hooks
from .engine.engine import Engine
from .engine.loop import numerical_error
from .engine.score import Lookup, look_up
from .errors import GenARMError, InvalidArgumentError, PromptError
from .request.facts import ModelFacts
from .request.inputs import PromptInput, count_prompts
from .request.options import Request, ScoreOptions
from .request.output import ScoreOutput
from .request.responses import Responses, count_responses, read_responses


def score_options(prompts: PromptInput, responses: Responses, options: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that a request for scores is prepared with. What says nothing about a given response, such as a
    seed, is refused."""
    unknown = sorted(set(options) - set(ScoreOptions.__annotations__))
    if unknown:
        raise InvalidArgumentError(
            f"score() has no argument {unknown[0]!r}: it takes {', '.join(sorted(ScoreOptions.__annotations__))}"
        )
    copies = count_responses(responses) if count_prompts(prompts) == 1 else 1
    return {**options, "num_return_sequences": copies, "max_new_tokens": 0}


def score(engine: Engine, facts: ModelFacts, most: int, request: Request, responses: Responses) -> ScoreOutput:
    """Score the response to each of a prepared request's prompts, at most ``most`` rows at once."""
    if (count := count_responses(responses)) != request.batch:
        raise InvalidArgumentError(f"{count} responses were given for {request.batch} prompts: give one each")
    found = read_responses(responses, request.streams[0].host, facts, request.decode)
    errors = {**response_errors(request, facts, found), **request.errors}
    width = max(map(len, found))
    shape = (request.batch, width, 1 + len(facts.names))
    table = torch.zeros(shape, device=request.device)  # the guided one, then each model's
    greedy = torch.ones(request.batch, dtype=torch.bool, device=request.device)
    guided = torch.zeros(shape[:2], dtype=torch.bool, device=request.device)
    sound = [row for row in range(request.batch) if row not in errors]
    chunks = _chunks(engine, request, found, sound, most)
    if engine.hooked:
        chunks = iter(parts := list(chunks))
        if len(parts) > 1 or len(sound) < request.batch:
            tell_of_hooks(engine, len(parts))
    for rows in chunks:
        lookup = look_up(engine, request.rows(rows), [found[row] for row in rows])
        size = lookup.logprobs.shape[1]
        table[rows, :size] = torch.cat([lookup.logprobs[..., None], lookup.model_logprobs], 2)
        inside = torch.tensor([[place < len(found[row]) for place in range(size)] for row in rows], device=table.device)
        greedy[rows] = (lookup.best | ~inside).all(1)
        guided[rows, :size] = lookup.guided & inside
        errors.update(_numerical_errors(facts, rows, lookup, inside))
    if len(errors) == request.batch:
        raise all_failed(dict(sorted(errors.items())))
    for row, tokens in enumerate(found):
        table[row, len(tokens) :] = 0.0
        for model, start in request.unread(row, tokens):
            table[row, start : len(tokens), 1 + model] = torch.nan
    table[list(errors)], greedy[list(errors)], guided[list(errors)] = torch.nan, False, False
    totals = table.double().sum(1)
    for row, tokens in enumerate(found):
        table[row, len(tokens) :] = torch.nan
    return ScoreOutput(
        totals=totals[:, 0],
        model_totals=totals[:, 1:],
        logprobs=table[..., 0],
        model_logprobs=table[..., 1:],
        greedy=greedy,
        tokens=[torch.tensor(row, dtype=torch.int64, device=table.device) for row in found],
        errors=dict(sorted(errors.items())),
        model_names=facts.names,
        guided=None if request.guidance.gate is None else guided,
    )


def response_errors(request: Request, facts: ModelFacts, found: Sequence[Sequence[int]]) -> dict[int, GenARMError]:
    """Rows whose response cannot be read behind their prompt."""
    errors: dict[int, GenARMError] = {}
    for row, tokens in enumerate(found):
        length = max(len(stream.rows[row]) for stream in request.streams) + len(tokens)
        strange = next((token for token in tokens if not 0 <= token < facts.vocab_size), None)
        if strange is not None:
            errors[row] = PromptError(
                f"row {row}: the response holds token id {strange}, outside the vocabulary of {facts.vocab_size}: "
                "encode it with the base model's tokenizer"
            )
        elif length > facts.max_length:
            errors[row] = PromptError(
                f"row {row}: prompt and response have {length} tokens, over max_length = {facts.max_length}: shorten "
                "them, or raise max_length as far as the models' positions go"
            )
    return errors


def _chunks(
    engine: Engine, request: Request, found: Sequence[Sequence[int]], rows: Sequence[int], most: int
) -> Iterator[list[int]]:
    """Rows that are looked up at once: of about one length, and as many as fit. Hooks get all in their order."""
    for group in engine.groups(request, rows):
        yield from _cut(engine, request, found, group, most)


def _cut(
    engine: Engine, request: Request, found: Sequence[Sequence[int]], rows: Sequence[int], most: int
) -> Iterator[list[int]]:
    left = list(rows) if engine.hooked else sorted(filter(found.__getitem__, rows), key=lambda row: len(found[row]))
    while left:
        taken = left[:most]
        while len(taken) > 1 and not engine.fits(len(taken), _length(request, found, taken)):
            taken = taken[: len(taken) // 2]
        if any(found[row] for row in taken):
            yield taken
        left = left[len(taken) :]


def _length(request: Request, found: Sequence[Sequence[int]], rows: Sequence[int]) -> int:
    prompts = max(len(stream.rows[row]) for stream in request.streams for row in rows)
    return prompts + max(len(found[row]) for row in rows)


def _numerical_errors(facts: ModelFacts, rows: Sequence[int], lookup: Lookup, inside: Tensor) -> dict[int, GenARMError]:
    """The rows in which a model fails, or nothing is left to draw: the first such token of each."""
    bad = ((lookup.status != 0) | lookup.logprobs.isnan()) & inside
    errors: dict[int, GenARMError] = {}
    for place, failed in enumerate(bad.any(1).tolist()):
        if failed:
            token = int(bad[place].int().argmax())
            where = f"row {rows[place]}, response token {token}"
            errors[rows[place]] = numerical_error(where, facts.names, int(lookup.status[place, token]))
    return errors
