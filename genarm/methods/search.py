"""Search: the reward as the value of a text, and a tree of continuations searched for the best, token by token.

A text s behind the prompt x has the value

    U(s) = w · Σ_t log π_r(s_t | x, s_<t)        with an autoregressive reward model, w = 1/β, or
    U(s) = w · V(x, s)                           with a scorer ``value``: a value head or a trajectory RM

and the objective J(s) = log π_base(s | x) + U(s): with a reward model the log of the product that guided decoding draws
from token by token, unnormalised; with the exact value V*(s) = log E_base[exp(r/β) | s] that of π*. The children of a
text are its k likeliest tokens by the ``prior``: the base, or the base times the reward model to the power w.

"beam": the B best texts by J(s)/|s|^p, finished ones among them, are grown by all their children until all of the B
best are finished, or no other can come to more than the best; the best is the answer. p = 0: the product's mode, which
is often short. A row reads each of its B texts' tokens once; a scorer each child as well.

"puct": before each token S simulations. One goes down from the text so far, at every text s to the child v with the
largest Q̂(s, v) + c · P(v | s) · √N(s) / (1 + N(s, v)), to a text that is new, or finished. A new one is read, and the
value U/|s|^p of the text that was come to goes into the means Q of all texts on the way. N counts the simulations that
came to a text, the one that read it included, P is the prior over its k children, and Q̂ is Q scaled to [0, 1] between
the least and the largest of s's children, so that c knows no unit. A child without visits has its own value in Q's
place, which a reward model says when s is read, or s's value where a scorer gives them. The child with the most visits
is written (tau = 0; the likelier of equals), or one drawn by visits^(1/tau), and its part of the tree stays. p = 1 by
default with a reward model: sums over texts of different lengths do not compare, and ending would look best. A scorer's
value is taken as it is, whatever p. A row has one place in each model's cache, where the texts of its tree take turns:
it is cut back to what the last text and the next share, and the rest is read again. ``forwarded`` counts that: up to as
many tokens per simulation as the text stands below the root.

"sample": a tree of one level, whose next token is drawn from P(v) ∝ π_base(v | s) · exp(U(s, v)) over the k children.
With k = |V| this is guided decoding where a reward model gives U, token by token with the same noise, and π* where U is
the exact value.

Source: beam search with the guided objective; PUCT as in Silver et al., "Mastering the game of Go without human
knowledge", Nature 2017, for text as in Liu et al., "Don't throw away your value model! Generating more preferable text
with Value-Guided Monte-Carlo Tree Search decoding", COLM 2024. The AR-RM as the value is GenARM's reviewers' question,
and the sizes are this library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor

from ..decoder import GuidedDecoder
from ..errors import InvalidArgumentError
from ..request.inputs import PromptInput
from ..request.options import Options
from ..request.output import GenerationOutput
from ..scalars import Scorer, scalar
from .admission import admit
from .call import Call, MethodRow, models_of
from .draws import drawn
from .genarm import chosen_reward
from .search_beam import Beam, Select, beam_search, best
from .search_children import Objective, Prior
from .search_puct import tree_search


def child_log_probs(prior_log_probs: Tensor, values: Tensor) -> Tensor:
    """log P(v) of "sample": the log-softmax of both summed, normalised over the k children.

    prior_log_probs: [..., k], log π_base of each child, up to a constant; values: [..., k], U of the text with each, up
    to a constant. Returns [..., k] in their dtype.
    """
    return (prior_log_probs + values).log_softmax(-1)


def generate(
    decoder: GuidedDecoder,
    input_ids: PromptInput,
    attention_mask: Tensor | None = None,
    *,
    kind: Literal["beam", "puct", "sample"] = "beam",
    reward: str | None = None,
    value: Scorer | None = None,
    weight: float = 1.0,
    prior: Prior = "base",
    expansions: int = 10,
    width: int = 4,
    length_power: float | None = None,
    simulations: int = 16,
    c_puct: float = 1.0,
    tau: float | None = None,
    **options: Unpack[Options],
) -> GenerationOutput:
    """Decode by search.

    Args:
        kind: "beam", "puct" or "sample".
        reward: which of the decoder's reward models gives the values; it may be left out where there is one.
        value: a scorer that gives them instead: the path of a value head or a trajectory RM, or a loaded one. No reward
            model is read then.
        weight: w, 1/β of a reward model.
        prior: "base" or "guided": which distribution chooses the children, and is PUCT's P.
        expansions: k, children per text; |V| or more for all.
        width: B, of "beam".
        length_power: p; None takes 0, and 1 for "puct".
        simulations, c_puct: S and c, of "puct".
        tau: the temperature of the draw; None takes 0 for "puct", 1 for "sample".
    Returns:
        GenerationOutput; ``scores`` are J/|s|^p of the answers ("beam", "sample"), or what PUCT compares.
    """
    _check(kind, value is not None, reward, prior, (expansions, width, simulations), (c_puct, tau, length_power))
    call = Call("search", decoder, input_ids, attention_mask, options)
    name = None if value is not None else chosen_reward("search", decoder, reward)
    power = float(kind == "puct") if length_power is None else length_power
    objective = Objective(
        call=call,
        policy=decoder.only() if name is None else decoder.only(name),
        scorer=None if value is None else scalar(decoder, value, "value"),
        weight=weight,
        expansions=min(expansions, call.request.vocab_size),
        prior=prior,
        length_power=power,
    )
    admit(call, objective.scorer or models_of(objective.policy))
    for rows in call.chunks():
        if kind == "puct":
            tree_search(objective, rows, simulations, c_puct, 0.0 if tau is None else tau)
        elif kind == "beam":
            beam_search(objective, rows, width, best(width))
        else:
            beam_search(objective, rows, 1, _sampled(call, 1.0 if tau is None else tau))
    return call.output()


def _sampled(call: Call, tau: float) -> Select:
    """One of a row's children, drawn with the noise of its id: what guided decoding draws from the same scores."""

    def select(rows: Sequence[MethodRow], found: list[list[Beam]]) -> list[list[Beam]]:
        table = torch.full((len(rows), call.request.vocab_size), -torch.inf)
        for place, own in enumerate(found):
            scores = torch.tensor([[beam.base for beam in own], [beam.value for beam in own]], dtype=torch.float64)
            table[place, [beam.tokens[-1] for beam in own]] = child_log_probs(*scores).float()
        seeds = torch.tensor([row.seed for row in rows])
        lengths = [len(row.prompt) + len(own[0].tokens) - 1 for row, own in zip(rows, found, strict=True)]
        tokens = drawn(table, seeds, torch.tensor(lengths), tau).tolist()
        return [[beam for beam in own if beam.tokens[-1] == token] for own, token in zip(found, tokens, strict=True)]

    return select


def _check(
    kind: str,
    has_value: bool,
    reward: str | None,
    prior: str,
    counts: tuple[int, ...],
    numbers: tuple[float | None, ...],
) -> None:
    if kind not in ("beam", "puct", "sample") or prior not in ("base", "guided"):
        raise InvalidArgumentError(
            f"kind is {kind!r}, prior {prior!r}: pass 'beam', 'puct' or 'sample', and 'base' or 'guided'"
        )
    if has_value and (reward is not None or prior == "guided"):
        raise InvalidArgumentError(
            f"reward is {reward!r}, prior {prior!r}, and value gives the values: leave out value, or pass neither a "
            "reward nor the guided prior"
        )
    if min(counts) < 1 or any(one is not None and not 0 <= one < float("inf") for one in numbers):
        raise InvalidArgumentError(
            f"expansions, width, simulations are {counts}, c_puct, tau, length_power {numbers}: pass at least 1, and "
            "numbers from 0"
        )
