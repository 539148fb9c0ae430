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
from .call import Call, MethodRow
from .draws import choices, top_candidates
from .scoring import Scorer, scalar


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
    k = min(candidates, call.request.vocab_size)
    for rows in call.chunks():
        with call.reader(call.base, len(rows), rows) as base, call.reader(scorer, len(rows) * k, rows) as judge:
            logits = call.prefill(base, [row.prompt for row in rows])[0]
            call.prefill(judge, [row.prompt for row in rows for _ in range(k)])
            while True:
                values, ids = top_candidates(call.scores(logits, rows), k)
                live = [row.reason is None for row in rows]
                offered = [[token] * there for own, there in zip(ids.tolist(), live, strict=True) for token in own]
                if not any(live):
                    break
                rewards = judge.extend(offered)[0][:, 0].float().view(len(rows), k)
                call.check(rewards, rows, scorer.name)
                chosen = choices(values + weight * rewards, rows, 0.0 if choice == "greedy" else tau)
                new = _write(call, rows, ids.tolist(), rewards.tolist(), chosen)
                if all(row.reason is not None for row in rows):
                    break
                places = [place for place in range(len(rows) * k) if rows[place // k].reason is None]
                judge.copy([place - place % k + chosen[place // k] for place in places], places)
                logits = base.extend(new)[0]
    return call.output()


def _write(
    call: Call, rows: list[MethodRow], ids: list[list[int]], rewards: list[list[float]], chosen: list[int]
) -> list[list[int]]:
    """Write each live row's choice -> what its reader is to read next, nothing where the row has ended."""
    new: list[list[int]] = []
    for row, own, values, place in zip(rows, ids, rewards, chosen, strict=True):
        if row.reason is None:
            call.extend(row, [own[place]])
            row.score = values[place]
            new.append([own[place]] if row.reason is None else [])
        else:
            new.append([])
    return new
