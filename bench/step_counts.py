"""How many launches a step of the decoding suite has: in its captured graph, and by what bench/launches.py says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from bench import graph_nodes
from bench.decode_cases import OURS, Case, Contender
from bench.decode_peers import Ours
from bench.launches import step
from genarm.engine.memory import bucket
from genarm_kernels import card

FEW_TOKENS = 16  # of a prompt: a step launches as much after any


@dataclass(frozen=True, slots=True)
class Launches:
    """Of one step. ``by`` says who counted; ``expected`` is None where bench/launches.py knows no such step."""

    counted: float
    by: str
    expected: int | None


def launches(case: Case, contender: Contender, decode: Ours, prompts: Tensor, profiled: float) -> Launches:
    """Nodes of the step's graph; where that cannot be had, why not, and what a profiler saw per step, in which the
    copy of its report to the host is one more."""
    counted, by = profiled, "profiler"
    try:
        counted, by = float(graph_launches(decode, prompts)), "graph"
    except Exception as error:  # a figure beside the others must not cost them
        by = f"profiler ({type(error).__name__}: {error})"
    wanted = contender.way == OURS
    return Launches(counted, by, expected(case.model, case.rewards, contender.K, case.batch) if wanted else None)


def graph_launches(decode: Ours, prompts: Tensor) -> int:
    """Of the graph that the decoder captures for a step: it lets go of the ones it has and captures anew."""
    decode.decoder.release()
    with graph_nodes.kept() as graphs:
        decode(prompts[:, :FEW_TOKENS], 2)
    if not graphs:
        raise RuntimeError(f"nothing was captured: the step ran on {decode.engine}")
    return graph_nodes.launches(graphs[-1])


@cache
def expected(model: str, rewards: str, K: int, batch: int) -> int:
    """By the engine's own code, cut for the card at hand."""
    own = card.card_of(torch.device("cuda", torch.cuda.current_device())) if torch.cuda.is_available() else card.DEFAULT
    return len(step(model, K, bucket(batch), on=own, rewards=rewards, eos_ids=frozenset()))


def per_step(starts: Iterable[float], since: float, steps: int) -> float:
    """How many of a device's kernels and copies began per step, of the steps since then."""
    return sum(start >= since for start in starts) / steps
