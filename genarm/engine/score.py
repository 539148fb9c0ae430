"""Given tokens looked up in the guided distribution: the models read them block by block, and none is drawn.

The prompt is read as for decoding and the response after it, several tokens at once, by the same sessions. A block is
as long as the memory for its logits allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import genarm_kernels

from ..request.guidance import Guidance
from ..request.options import Request
from .draw import combined_scores, repetition_penalty
from .engine import Engine
from .gate import gated_weights, guided_rows
from .run import Run

MOST_TOKENS = 64  # of a row in one block
BLOCK_BYTES = 2**28  # of a block's logits, and of what is made of them
PLAIN: dict[str, Any] = {
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "base_min_p": 0.0, "base_top_p": 1.0
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lookup:
    """What B rows of n tokens came to, n the longest response; anything where a row has no more tokens.

    logprobs [B, n] float32 and model_logprobs [B, n, M] float32; best [B, n] bool, where the token is the likeliest;
    status [B, n] int32, bit m where model m's logits hold NaN or +inf; guided [B, n] bool, where reward models count.
    """

    logprobs: Tensor
    model_logprobs: Tensor
    best: Tensor
    status: Tensor
    guided: Tensor


@torch.no_grad()
def look_up(engine: Engine, request: Request, responses: Sequence[Sequence[int]]) -> Lookup:
    """Look up the tokens of each row's response, at least one token in all."""
    longest = max(map(len, responses))
    rows = [[*response, *[0] * (longest - len(response))] for response in responses]
    tokens = torch.tensor(rows, device=request.device)
    parts = []
    with engine.uncaptured(request, request.longest + longest) as run:
        seen = run.state.seen
        drawn = _drawn_from(request.guidance)
        for start, logits in _blocks(run, tokens, _block(request, seen is not None)):
            block = tokens[:, start : start + logits[0].shape[1]]
            parts.append(_look_up(request, drawn, logits, block, seen))
            if seen is not None:
                seen.scatter_(1, block, True)
    return Lookup(*(torch.cat(kind, 1) for kind in zip(*parts, strict=True)))


def _blocks(run: Run, tokens: Tensor, size: int) -> Iterator[tuple[int, list[Tensor]]]:
    """Each block's first token, and the models' logits [B, Q, V_m] that say what is likely at each of the block."""
    yield 0, [logits[:, None] for logits in run.prefill()]
    for start in range(1, tokens.shape[1], size):
        stop = min(start + size, tokens.shape[1])
        yield start, run.append(tokens[:, start - 1 : stop - 1])


def _block(request: Request, one_by_one: bool) -> int:
    """Tokens of a block. Under a repetition penalty a token changes what is likely at the next."""
    token = request.batch * request.vocab_size * 4 * (len(request.streams) + 4)
    return 1 if one_by_one else max(1, min(MOST_TOKENS, BLOCK_BYTES // token))


def _drawn_from(guidance: Guidance) -> Guidance:
    """Where the temperature is 0, the distribution that log-probabilities are under: unfiltered, at temperature 1."""
    greedy = torch.as_tensor(guidance.temperature, device=guidance.weights.device) == 0
    if not bool(greedy.any()):
        return guidance
    if not greedy.dim():
        return replace(guidance, **PLAIN)
    rows = {
        name: torch.as_tensor(value, device=greedy.device).expand(len(greedy))
        for name, value in guidance.filters.items()
    }
    filters = {name: torch.where(greedy, torch.full_like(row, PLAIN[name]), row) for name, row in rows.items()}
    return replace(guidance, **filters)


def _look_up(
    request: Request, drawn: Guidance, logits: list[Tensor], tokens: Tensor, seen: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (B, Q), V = tokens.shape, request.vocab_size
    flat, wanted = [_widened(z.flatten(0, 1), V) for z in logits], tokens.flatten()
    rows = torch.arange(B, device=tokens.device).repeat_interleave(Q)
    guidance, shape = (one.select(rows) if Q > 1 else one for one in (request.guidance, drawn))
    weights, bias = guidance.weights, guidance.bias
    guided = torch.ones_like(wanted, dtype=torch.bool)
    if guidance.gate is not None:
        guided = guided_rows(flat[0], guidance.gate, V)
        weights = gated_weights(weights, guided)
    if seen is not None:  # the penalised scores stand for the whole combination
        scores = combined_scores(flat, weights, bias, V)
        penalised = repetition_penalty(scores, seen, guidance.repetition_penalty)
        bias, weights = penalised.masked_fill(scores == -math.inf, -math.inf), torch.zeros_like(weights)
    log_probs = genarm_kernels.guided_log_probs(flat, weights, bias=bias, vocab_size=V, **shape.filters)
    likeliest = log_probs.argmax(1)
    if drawn is not request.guidance:  # a temperature of 0 draws the likeliest of what the base's filters leave
        base_filters = {name: guidance.filters[name] for name in ("base_min_p", "base_top_p")}
        kept = genarm_kernels.guided_log_probs(flat, weights, bias=bias, vocab_size=V, temperature=0.0, **base_filters)
        likeliest = kept.argmax(1)
    found = log_probs.gather(1, wanted[:, None])[:, 0]
    own, status = [], torch.zeros_like(wanted, dtype=torch.int32)
    for model, z in enumerate(flat):
        wide = z[:, :V].float()
        own.append(wide.gather(1, wanted[:, None])[:, 0] - wide.logsumexp(1))
        status |= (~(wide.amax(1) < math.inf)).to(torch.int32) << model
    found, best, status, guided = (one.view(B, Q) for one in (found, likeliest == wanted, status, guided))
    return found, torch.stack(own, 1).view(B, Q, -1), best, status, guided


def _widened(logits: Tensor, vocab_size: int) -> Tensor:
    """Ids that a model lacks are −inf in it."""
    missing = vocab_size - logits.shape[1]
    return F.pad(logits, (0, missing), value=-math.inf) if missing > 0 else logits
