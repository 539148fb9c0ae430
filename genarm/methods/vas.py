"""VAS: the base's likeliest tokens, drawn by logit plus a value head's estimate of the reward that each leads to.

    p(v) ∝ π_base(v | x, y_<t) · exp(β · (V(x, y_<t, v) − mean_u V(x, y_<t, u)))      u, v among the base's k likeliest

V(x, y) estimates the reward that the base's own continuation of y will earn, so no answer is looked ahead for: the k
candidates of every row are one batch of the value head, which reads one token for each. The mean is the same for all of
them, so that it changes no probability; it keeps the exponents small. With k = |V| and the soft value
V*(y) = (1/β) log E_base[exp(β r) | y] in V's place this is π* ∝ π_base · exp(β r), exactly; the mean reward,
which `genarm train value` learns, is V* to first order in β.

Source: Han, Shenfeld, Srivastava, Kim, Agrawal, "Value Augmented Sampling for Language Model Alignment and
Personalization", 2024 (arXiv 2405.06639). k = 20, β = 3.
"""

from __future__ import annotations

import math
from typing import Unpack

from torch import Tensor

from ..decoder import GuidedDecoder
from ..errors import InvalidArgumentError
from ..request.inputs import PromptInput
from ..request.options import Options
from ..request.output import GenerationOutput
from ..scalars import Scorer, scalar
from .admission import admit
from .call import Call
from .candidates import write_by_candidates


def value_log_probs(log_probs: Tensor, values: Tensor, beta: float) -> Tensor:
    """Log-probabilities of VAS over k candidates, normalised over them.

    log_probs: [..., k] of the base, up to a constant (logits too); values: [..., k], V of the text with each. Returns
    [..., k] in their dtype.
    """
    scores: Tensor = log_probs + beta * (values - values.mean(-1, keepdim=True))
    return scores.log_softmax(-1)


def generate(
    decoder: GuidedDecoder,
    input_ids: PromptInput,
    attention_mask: Tensor | None = None,
    *,
    value_head: Scorer,
    candidates: int = 20,
    strength: float = 3.0,
    **options: Unpack[Options],
) -> GenerationOutput:
    """Decode by VAS.

    Args:
        value_head: V, a sequence classifier of one label over the base's vocabulary, read at every token: a path
            (`genarm train value` makes one), or loaded.
        candidates: k, how many of the base's likeliest tokens there are to draw from; |V| or more for all.
        strength: β, of the values beside the base's log-probabilities.
        options: those of every method, and ``temperature``, 1 unless given: of the draw from p; 0 takes the likeliest.
    Returns:
        GenerationOutput; ``scores`` are the value head's of the answers.
    """
    if candidates < 1 or not math.isfinite(strength):
        raise InvalidArgumentError(
            f"candidates is {candidates}, strength {strength}: pass at least one candidate and a number"
        )
    call = Call("vas", decoder, input_ids, attention_mask, options, ("temperature",))
    scorer = scalar(decoder, value_head, "value_head")
    admit(call, scorer)

    def combine(logits: Tensor, values: Tensor) -> Tensor:
        return value_log_probs(logits, values, strength)

    write_by_candidates(call, scorer, candidates, combine, call.request.guidance.temperature)
    return call.output()
