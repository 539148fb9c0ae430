"""Every model's own log-probability of each token, on its way from vLLM's sampler to a response.

vLLM sends the log-probabilities that a request asks for (``logprobs``: the drawn token's, then the k largest) as rows
of ids and numbers. A request that asks for every model's as well (``ASK``) gets 1 + M columns more: a mark, which no
log-probability can be, and log π_m(token) of the base and each reward model. They travel with vLLM's own, so streams,
preemption, several processes and several machines are vLLM's matter. ``split`` takes them out again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidArgumentError
from .settings import ASK

BASE = "base"
MARK = 1e38  # above every log-probability and every logit
Step = Mapping[int, Any]  # of one token, by id: vLLM's Logprob, which has the field ``logprob``


def extra_columns(models: int) -> int:
    """How many columns the mark and M models take."""
    return 1 + models


def raised(params: Any, models: int) -> None:
    """Make room in vLLM's SamplingParams of a request that asks for M models' log-probabilities: raises ``logprobs``.
    Parameters that were passed before are left as they are.

    Raises:
        InvalidArgumentError: no ``logprobs`` to put them beside, or others in their place.
    """
    said = params.extra_args
    if isinstance(said[ASK], Mapping):
        if params.logprobs != said[ASK].get("beside", -1) + extra_columns(models):
            raise InvalidArgumentError(f"{ASK} and logprobs of these parameters no longer go together: make new ones")
        return
    if params.logprobs is None:
        raise InvalidArgumentError(
            f"{ASK} stand beside logprobs, which this request does not ask for: ask for them as well (logprobs: 0, in "
            "a chat logprobs: true)"
        )
    if params.logprobs < 0 or params.logprob_token_ids:
        raise InvalidArgumentError(
            f"{ASK} has no place beside logprobs: -1 or logprob_token_ids: leave one of them out"
        )
    params.extra_args = {**said, ASK: {"beside": params.logprobs}}
    params.logprobs += extra_columns(models)


def own_columns(said: Mapping[str, Any]) -> int:
    """The columns before the mark of a request that has been ``raised``: the token's and the k largest."""
    return 1 + int(said[ASK]["beside"])


def token_logprobs(logits: Sequence[Tensor], rows: Tensor, tokens: Tensor, vocab_size: int) -> Tensor:
    """log π_m of one token per row, at temperature 1 and without filters.

    Args:
        logits: [B, V_m] of each of M models.
        rows, tokens: [A] int64, rows of the logits and a token for each.
        vocab_size: of the base, whose ids the distribution is over.

    Returns:
        [A, M] float32; -inf where a model has no such id.
    """
    found = []
    for part in logits:
        own = part[rows, :vocab_size].float()
        known = tokens < own.shape[1]
        score = own.gather(1, tokens.clamp(max=own.shape[1] - 1)[:, None])[:, 0]
        found.append(torch.where(known, score - own.logsumexp(-1), -torch.inf))
    return torch.stack(found, 1)


def put(ids: Tensor, logprobs: Tensor, rows: Tensor, own: Tensor, most: int, values: Tensor) -> tuple[Tensor, Tensor]:
    """Write the mark and M numbers behind the own columns of some rows.

    The front end makes a table by id of each row. So the columns get ids that stand for nothing, none of them twice in
    a row, all of them in the vocabulary, because the front end spells out every one.

    Args:
        ids, logprobs: [B, W] integers and float32, of vLLM's sampler; rows that are not named stay as they are.
        rows, own: [A] int64, which rows, and how many columns each has of its own.
        most: the largest of ``own``.
        values: [A, M] float32.

    Returns:
        Both, as wide as it takes.
    """
    extra = extra_columns(values.shape[1])
    missing = max(0, most + extra - ids.shape[1])
    ids = torch.nn.functional.pad(ids, (0, missing))
    logprobs = torch.nn.functional.pad(logprobs, (0, missing), value=-torch.inf)
    chosen, numbers = ids[rows], logprobs[rows]
    kept = torch.arange(most, device=ids.device) < own[:, None]
    candidates = torch.arange(most + extra, device=ids.device)
    taken = ((chosen[:, :most, None] == candidates) & kept[:, :, None]).any(1)
    free = taken.int().argsort(dim=1, stable=True)[:, :extra]
    places = own[:, None] + torch.arange(extra, device=ids.device)
    chosen.scatter_(1, places, free.to(ids.dtype))
    numbers.scatter_(1, places, torch.nn.functional.pad(values, (1, 0), value=MARK))
    return ids.index_copy(0, rows, chosen), logprobs.index_copy(0, rows, numbers)


def split(
    logprobs: Sequence[Step | None], rewards: Sequence[str]
) -> tuple[list[Step | None], dict[str, list[float]] | None]:
    """The log-probabilities of a completion of vLLM's as they would be without the question, and each model's.

    Args:
        logprobs: of each token, ``CompletionOutput.logprobs``.
        rewards: the reward models' names, in the server's order.

    Returns:
        The first, and log π_m(token) of every token under "base" and each reward model's name: the numbers that the
        embedded engine calls ``model_logprobs``. None in place of the second where the request did not ask for them.
    """
    names = (BASE, *rewards)
    plain: list[Step | None] = []
    found: list[list[float]] = []
    for step in logprobs:
        entries = list(step.items()) if step is not None else []
        at = len(entries) - extra_columns(len(names))
        if at < 1 or entries[at][1].logprob < MARK / 2:
            plain.append(step)
            continue
        plain.append(dict(entries[:at]))
        found.append([entry.logprob for _, entry in entries[at + 1 :]])
    if not found:
        return plain, None
    return plain, {name: list(column) for name, column in zip(names, zip(*found, strict=True), strict=True)}
