"""ARGS: the base's likeliest tokens, chosen by logit plus a trajectory RM's score of the text with each.

    score(v) = logit_base(v | x, y_<t) + w · r(x, y_<t, v)        for v among the base's k largest logits

"greedy" takes the largest score, "stochastic" draws from softmax(score / τ) over the k. The k candidates of every row
are one batch of the trajectory RM, which reads one token for each.

Source: Khanov, Burapacheep, Li, "ARGS: Alignment as Reward-Guided Search", ICLR 2024. k = 10, w = 1 there, as in
GenARM's comparison; τ = 0.7.
"""

from __future__ import annotations

from typing import Literal, Unpack

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


def generate(
    decoder: GuidedDecoder,
    input_ids: PromptInput,
    attention_mask: Tensor | None = None,
    *,
    trajectory_rm: Scorer,
    candidates: int = 10,
    weight: float = 1.0,
    choice: Literal["greedy", "stochastic"] = "greedy",
    tau: float = 0.7,
    **options: Unpack[Options],
) -> GenerationOutput:
    """Decode by ARGS.

    Args:
        trajectory_rm: a sequence classifier of one label over the base's vocabulary: a path, or loaded.
        candidates: k, how many of the base's likeliest tokens are scored at each step.
        weight: w, of the reward beside the logit.
        choice: "greedy" or "stochastic".
        tau: the temperature of "stochastic".
    Returns:
        GenerationOutput; ``scores`` are the trajectory RM's of the answers.
    """
    if candidates < 1 or choice not in ("greedy", "stochastic") or tau <= 0:
        raise InvalidArgumentError(
            f"candidates is {candidates}, choice {choice!r}, tau {tau}: pass at least one candidate, 'greedy' or "
            "'stochastic', and a tau above 0"
        )
    call = Call("args", decoder, input_ids, attention_mask, options)
    scorer = scalar(decoder, trajectory_rm, "trajectory_rm")
    admit(call, scorer)

    def combine(logits: Tensor, rewards: Tensor) -> Tensor:
        return logits + weight * rewards

    write_by_candidates(call, scorer, candidates, combine, 0.0 if choice == "greedy" else tau)
    return call.output()
