"""Whole answers: a call with particles, from its prompts to the answers drawn by weight."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from .engine.engine import Engine
from .engine.systems import SystemBatch, Systems
from .request.options import Request
from .request.output import GenerationOutput
from .scalars import Beside
from .terminal import admit_terminal, terminal_rewards


class Deciding(Beside, Protocol):
    """What is needed of a ``GuidedDecoder``."""

    engine: Engine


def whole_answers(decoder: Deciding, request: Request) -> GenerationOutput:
    """Decode a prepared request's particles, and draw its answers of them.

    Raises:
        GenARMError: what scores them is no reward for these answers, or every row failed.
    """
    assert request.particles is not None
    terminal = request.particles.terminal
    if terminal is not None:
        request = admit_terminal(decoder, terminal, request)
    batch = SystemBatch(decoder.engine, decoder.max_batch_size, request)
    systems = batch.decode()
    if terminal is None:
        return batch.output(systems)
    rewards, systems = _rewards(decoder, request, batch, systems)
    return batch.output(systems, rewards)


def _rewards(decoder: Deciding, request: Request, batch: SystemBatch, systems: Systems) -> tuple[Tensor, Systems]:
    """What the terminal reward says of each particle, [P, N] float64, 0 in systems that failed; and the systems, with
    the tokens read for it among those of the call. A particle without weight is not asked about."""
    assert request.particles is not None
    count, drawn = request.particles.count, systems.drawn
    rewards = torch.zeros(request.batch * count, dtype=torch.float64)
    live = (systems.log_weights.flatten() > -torch.inf).tolist()
    rows = [row for row in range(len(live)) if live[row] and row // count not in batch.errors]
    prompts = [prompt.tolist() for prompt in request.streams[0].host]
    found = terminal_rewards(
        decoder,
        request.particles.terminal,
        [prompts[row // count] for row in rows],
        [drawn.tokens[row].tolist() for row in rows],
        None if drawn.texts is None else [drawn.texts[row] for row in rows],
        request,
    )
    rewards[rows] = found.values
    for place, error in found.errors.items():
        batch.errors.setdefault(rows[place] // count, error)
    forwarded = {**drawn.stats.forwarded}
    for name, tokens in found.forwarded.items():
        forwarded[name] = forwarded.get(name, 0) + tokens
    drawn = replace(drawn, stats=replace(drawn.stats, forwarded=forwarded))
    return rewards.view(request.batch, count), replace(systems, drawn=drawn)
