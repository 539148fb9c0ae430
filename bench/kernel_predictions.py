"""The times that bytes and instructions of the sampling kernels predict on an H200. Nothing of it is measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from bench.kernel_tables import Table, code
from bench.machine_code import group_configuration, shipped
from genarm_kernels.sampling.arguments import GROUP_SIZE
from genarm_kernels.sampling.groups import SUBGROUPS

# An H200, as its data sheet and public measurements have it; a run's own figures replace them where there is one.
COPY_BANDWIDTH = 4.3e12  # bytes read + written a second
LANE_INSTRUCTIONS = 33e12  # a second, all lanes of 132 SMs
CLOCK = 1.95e9
# Guesses, for what is bound by latency: a kernel's start after the one before it in a graph; a load from memory; cycles
# from one instruction of a warp to its next where little else runs on the SM.
GAP, ROUND_TRIP, CYCLES_A_STEP = 1e-6, 0.7e-6, 3
V = 128256
# Of random normal logits, as the benchmark draws them: groups and subgroups whose peak reaches the bound of top-k 50.
REACHED = 50 / math.ceil(V / GROUP_SIZE)
READ = REACHED / SUBGROUPS.value


@dataclass(frozen=True)
class Prediction:
    """A kernel's bytes and instructions, and the longer of the times they take."""

    name: str
    bytes: float
    instructions: float  # of a lane, all lanes together
    latency: float  # seconds that no width of the chip shortens

    @property
    def seconds(self) -> float:
        return max(self.bytes / COPY_BANDWIDTH, self.instructions / LANE_INSTRUCTIONS) + self.latency


def group_pass(B: int, M: int, feature: str) -> Prediction:
    found = code(group_configuration("bf16", M, feature))
    ids = B * V
    stored = 4 * ids if feature == "filters" else 0
    chain = ROUND_TRIP + sum(found.plain.values()) * CYCLES_A_STEP / CLOCK
    return Prediction("group pass", 2 * M * ids + stored, found.plain_an_id * ids, chain)


def one_program_a_row(name: str, round_trips: int, share: float = 1.0) -> Prediction:
    """`share` of its instructions are on the way of a usual row."""
    steps = code(shipped()[name]).instructions * share
    return Prediction(name.split(",")[0], 0, 0, GAP + round_trips * ROUND_TRIP + steps * CYCLES_A_STEP / CLOCK)


def over_scores(name: str, B: int) -> Prediction:
    """A pass over the groups that the row's bound reaches, which reads the scores of the subgroups that it reaches."""
    instructions = code(shipped()[name]).instructions / 32 * REACHED * B * V
    return Prediction(name, 4 * READ * B * V, instructions, GAP + 3 * ROUND_TRIP)


def unfiltered(B: int, M: int) -> list[Prediction]:
    return [group_pass(B, M, "plain"), one_program_a_row("draw, M=2, plain", 3, 0.5)]


def filtered(B: int, M: int) -> list[Prediction]:
    return [
        group_pass(B, M, "filters"),
        one_program_a_row("bound", 2, 2.0),
        over_scores("gather", B),
        # The search over candidates in registers is a loop of 32 bits, of which the leading ones cost nothing.
        one_program_a_row("select", 3, 2.0),
        over_scores("regroup", B),
        one_program_a_row("draw, M=2, plain", 3, 0.5),
    ]


CALLS: dict[str, Callable[[], list[Prediction]]] = {
    "B = 64, M = 4, no filter": lambda: unfiltered(64, 4),
    "B = 1, M = 2, no filter": lambda: unfiltered(1, 2),
    "B = 64, M = 4, top-k 50 + top-p .9": lambda: filtered(64, 4),
}


def times() -> Table:
    """What each kernel of a call moves and takes."""
    rows = [["shape", "kernel", "MB", "M lane instructions", "µs"]]
    for name, build in CALLS.items():
        kernels = build()
        for kernel in kernels:
            figures = (kernel.bytes / 1e6, kernel.instructions / 1e6, kernel.seconds * 1e6)
            rows.append([name, kernel.name, *(f"{figure:.1f}" for figure in figures)])
        rows.append([name, "all", "", "", f"{1e6 * seconds(name):.1f}"])
    return rows


def targets() -> Table:
    """The targets for a call, and what is predicted of them."""
    wide, narrow, both = map(seconds, CALLS)
    share = 64 * 4 * V * 2 / COPY_BANDWIDTH / wide
    return [
        ["target, V = 128,256, bf16", "", "predicted"],
        ["B = 64, M = 4: share of copy bandwidth", "≥ 85%", f"{share:.0%}"],
        ["B = 1, M = 2, in a graph, µs", "≤ 8", f"{narrow * 1e6:.1f}"],
        ["B = 64, M = 4: top-k + top-p over no filter", "≤ 2.5", f"{both / wide:.2f}"],
    ]


def seconds(name: str) -> float:
    return sum(kernel.seconds for kernel in CALLS[name]())
