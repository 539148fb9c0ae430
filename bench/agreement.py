"""Whether drawn tokens could have come from the guided distribution: a fast draw of the wrong thing is no result.

Every token must be inside the filtered support, and their mean log-probability within six standard errors of what the
distribution gives. The filters are relaxed a little, since float32 rounding moves ids across a filter's edge.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bench.peers import Draw
from genarm_kernels import guided_log_probs

ENOUGH_TOKENS = 64
STANDARD_ERRORS = 6.0
SLACK = 0.05  # nats a token: what the relaxed filters add to the entropy


def check(draws: list[Draw], tokens: list[Tensor], filters: dict[str, Any]) -> None:
    """Raise AssertionError on the first few draws' tokens if they do not fit."""
    options = relaxed(filters)
    gap = variance = 0.0
    count = 0
    for draw, drawn in zip(draws, tokens, strict=True):
        log_probs = guided_log_probs(draw.logits, draw.weights, **options)  # [B, V]
        B, V = log_probs.shape
        assert drawn.shape == (B,), f"tokens have shape {list(drawn.shape)}, expected [{B}]"
        assert bool(((drawn >= 0) & (drawn < V)).all()), f"a token is not an id below {V}"
        own = log_probs.gather(1, drawn[:, None]).double()
        outside = int((own == -float("inf")).sum())
        assert outside == 0, f"{outside} of {B} tokens are outside what the filters {filters} keep"
        mean, spread = moments(log_probs)
        gap += float((own[:, 0] - mean).sum())
        variance += float(spread.sum())
        count += B
        if count >= ENOUGH_TOKENS:
            break
    bound = STANDARD_ERRORS * variance**0.5 + SLACK * count
    assert abs(gap) <= bound, f"log-probabilities of {count} tokens are off by {gap:.1f} in all, at most {bound:.1f}"


def relaxed(filters: dict[str, Any]) -> dict[str, Any]:
    """The same filters, keeping slightly more."""
    edges = {
        "top_k": lambda k: k + 2,
        "top_p": lambda p: min(p + 1e-3, 1.0),
        "min_p": lambda p: 0.99 * p,
    }
    return {name: edges[name](value) for name, value in filters.items()}


def moments(log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [B] of the log-probability of a token drawn from each row."""
    finite = log_probs.clamp_min(-1e4).double()
    probs = finite.exp()
    mean = (probs * finite).sum(-1)
    return mean, ((probs * finite.square()).sum(-1) - mean.square()).clamp_min(0.0)
