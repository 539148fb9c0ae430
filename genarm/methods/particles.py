"""Particles: whole answers from the product of the base and the reward models, and not one token at a time.

    π(y | x) = (1/Z) · π_base(y | x) · Π_i π_i(y | x)^{w_i} · exp(r(x, y) / β)

Guided decoding draws from q(y | x) = π(y | x) · Z / (Π_t Z_t · exp(r / β)), Z_t the normaliser of each of its draws: a
product that was renormalised at every token, which walks into beginnings that no good answer continues. N particles are
drawn from q, each with the weight Π_t Z_t, and at the end exp(r / β) for a reward r on whole answers (``terminal``). As
soon as their effective sample size, (Σ W)² / Σ W², falls under ``resample_below`` · N, they are resampled
systematically: light ones give their places to copies of heavy ones. The answer is drawn from them by weight, and comes
from π as N grows. Ẑ, the product of the mean weights, is unbiased for Z.

One particle is guided decoding, and without reward models N particles with a terminal reward are best-of-N by sampling
in the place of the largest. Source: Doucet, de Freitas and Gordon, "Sequential Monte Carlo Methods in Practice", 2001,
for the algorithm; Lew et al., "Sequential Monte Carlo Steering of Large Language Models using Probabilistic Programs",
arXiv 2306.03081, 2023, for language models; the draw it proposes by is GenARM's.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..decoder import GuidedDecoder
from ..request.inputs import PromptInput
from ..request.options import Options
from ..request.output import GenerationOutput
from ..terminal import Terminal
from .call import check_options

OWN = ("particles", "resample_below", "resample_every", "terminal", "length_bonus")
TAKEN = tuple(name for name in Options.__annotations__ if name not in (*OWN, "streamer"))


def generate(
    decoder: GuidedDecoder,
    input_ids: PromptInput,
    attention_mask: Tensor | None = None,
    *,
    particles: int = 16,
    resample_below: float = 0.5,
    resample_every: int = 1,
    terminal: Terminal | None = None,
    length_bonus: float = 0.0,
    **options: Any,
) -> GenerationOutput:
    """Decode by particles: ``GuidedDecoder.generate(particles=…)``, which describes them.

    Args:
        particles: N, beside each other in one batch.
        resample_below: the share of N under which the effective sample size leads to resampling; 0 never, 1 always.
        resample_every: tokens from one look at it to the next.
        terminal: a reward on finished answers: a trajectory RM's path, a loaded one, or a callable on texts.
        length_bonus: nats per token added to the weights; above 0, longer answers.
        options: those of ``GuidedDecoder.generate`` but streamer.
    Returns:
        GenerationOutput; ``log_evidence`` is log Ẑ of each row's particles.
    """
    check_options("particles", options, TAKEN)
    return decoder.generate(
        input_ids,
        attention_mask,
        particles=particles,
        resample_below=resample_below,
        resample_every=resample_every,
        terminal=terminal,
        length_bonus=length_bonus,
        **options,
    )
