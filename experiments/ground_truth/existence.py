"""That π* can be decoded token by token, by an AR-RM that exists and by the exact value, through the library's code.

In float64 on tables; by the operations' oracle; and by decoders and methods whose scores are float32. What those draw
from is softmax of their scores: each prefix's are normalised in float64, and rounding is left in second order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import genarm.methods
import genarm_kernels
from genarm import GuidedDecoder
from genarm.evaluation import tabular_methods as methods
from genarm.evaluation.tabular import Tables, TabularProblem, answers, guided, joint, kl
from genarm.evaluation.tabular_models import lm_from_tables, scorer_from_values
from genarm.evaluation.tabular_problems import random_problem
from genarm.methods import search, vas
from genarm.methods.draws import top_candidates
from genarm.request.output import ScoreOutput
from genarm_kernels import reference

VOCABULARY, LENGTH, BETA = 5, 4, 0.5
WEIGHT = 1.5  # of the reward model in decoding: not β's inverse, so that nothing cancels by chance
PROMPT = [torch.tensor([0])]  # whichever: a table knows one prompt


def existence(problem: TabularProblem, weight: float) -> dict[str, float]:
    """KL to π*, by way of decoding, of the AR-RM with π_r^weight ∝ π*/π_base and of the exact value.

    "rule": the function by which a method combines scores, on tables in float64.
    """
    reward_model = methods.existing(problem, weight)
    pair, weights = [problem.base, reward_model], [1.0, weight]
    found = {
        "AR-RM, tables in float64": guided(pair, weights),
        "AR-RM, the operation's oracle": oracle_tables(pair, weights),
        "AR-RM, GuidedDecoder": decoded_tables(problem, reward_model, weight),
    }
    for name, rule in RULES.items():
        found[f"exact value, {name}'s rule in float64"] = [
            rule(table, values.view_as(table)) for table, values in zip(problem.base, problem.values[1:], strict=True)
        ]
        found[f"exact value, {name}'s draws"] = drawn_tables(problem, name)
    return {name: kl(joint(tables), problem.optimum) for name, tables in found.items()}


def oracle_tables(models: Sequence[Tables], weights: Sequence[float]) -> Tables:
    """The guided distribution as `genarm_kernels.reference` has it."""
    return [
        reference.guided_log_probs([rows.float() for rows in depth], list(weights)).double().log_softmax(1)
        for depth in zip(*models, strict=True)
    ]


def decoded_tables(problem: TabularProblem, reward_model: Tables, weight: float) -> Tables:
    """The guided distribution as a decoder has it, from its scores of every answer."""
    return tables_of(decoder_scores(problem, reward_model, weight).logprobs, problem.vocab_size)


def decoder_scores(problem: TabularProblem, reward_model: Tables, weight: float) -> ScoreOutput:
    """A decoder's scores of every answer."""
    every = answers(problem.vocab_size, problem.length)
    return make_decoder(problem, reward_model).score(PROMPT, every, beta=1 / weight)


# How each method that decodes by a value combines scores, by the function it does so with.
RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "vas": lambda log_probs, values: vas.value_log_probs(log_probs, values, 1.0),
    "search": search.child_log_probs,
}


def drawn_tables(problem: TabularProblem, name: str) -> Tables:
    """The distribution that a method with the exact value draws from, seen where it draws: a token behind every
    prefix, all of them in one call."""
    V, T = problem.vocab_size, problem.length
    value: Any = scorer_from_values(V, problem.values)
    settings: dict[str, dict[str, Any]] = {
        "vas": {"value_head": value, "candidates": V, "strength": 1.0},
        "search": {"value": value, "kind": "sample", "expansions": V},
    }
    prefixes = [[*PROMPT[0].tolist(), *row] for t in range(T) for row in answers(V, t).tolist()]
    decoder = GuidedDecoder(lm_from_tables(problem.base), max_batch_size=len(prefixes))
    with patch.object(genarm_kernels, "guided_sample", wraps=genarm_kernels.guided_sample) as draw:
        genarm.methods[name].generate(decoder, prefixes, **settings[name], max_new_tokens=1, eos_token_id=[])
    (((scores,), *_),) = [call.args for call in draw.call_args_list]
    if name == "vas":  # its candidates stand in the order of the base's scores
        order = top_candidates(torch.cat(problem.base).float(), V)[1]
        scores = torch.zeros_like(scores).scatter(1, order, scores)
    return list(scores.double().log_softmax(1).split([V**t for t in range(T)]))


def make_decoder(problem: TabularProblem, reward_model: Tables) -> GuidedDecoder:
    models: dict[str, Any] = {"r": lm_from_tables(reward_model)}
    return GuidedDecoder(lm_from_tables(problem.base), models, max_batch_size=4096)


def tables_of(log_probs: Tensor, vocab_size: int) -> Tables:
    """Tables from the log-probabilities [V^T, T] of all answers' tokens, each prefix's normalised in float64."""
    length = log_probs.shape[1]
    every = [vocab_size ** (length - 1 - t) for t in range(length)]  # answers that share t + 1 tokens
    return [log_probs[:: every[t], t].view(-1, vocab_size).double().log_softmax(1) for t in range(length)]


def measure(seed: int) -> list[dict[str, Any]]:
    """One row: what each way of decoding comes to under one seed, and how far off a decoder's log-probability of an
    answer is at most."""
    problem = random_problem(VOCABULARY, LENGTH, BETA, seed=seed)
    error = (decoder_scores(problem, methods.existing(problem, WEIGHT), WEIGHT).totals - problem.optimum).abs().max()
    return [{"seed": seed, "kl": existence(problem, WEIGHT), "score_error": float(error)}]
