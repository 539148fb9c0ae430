"""What a step over several places of every row costs beside one over a single place, and how many drafts pay then.

    python -m bench.speculation_costs --out bench/results/cpu-avx2/speculation_costs.json

A step is what decoding with drafts runs but for the drafting: a pass of the 201M Llama of `make bench-decode` over Q
new tokens of each of B rows, a draw at every place, and the caches cut back. Numbers of places take turns, round by
round; a cost is the median of a round's time over that of its one place. On a CPU time is the processor's for one
thread, so that what else a machine does counts little; with more threads, which share its memory, places cost less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

import genarm_kernels
from bench.decode_models import family
from bench.measure import DEVICE, seconds_of
from bench.report import environment
from genarm import GuidedDecoder
from genarm.cli.bench import rotate
from genarm.request.drafts import MOST

MODEL, DTYPE, CONTEXT, ROUNDS = "small", torch.bfloat16, 128, 3
BATCHES = (1, 2, 4, 8, 16, 32)
MOST_ROWS = 8
RIGHT = 0.7  # of the drafts behind a right one, by which the table is set
GAIN = 1.03  # tokens per time over those of plain steps, below which nothing is drafted


def steps(model: Any, batch: int, most: int) -> dict[str, Callable[[], float]]:
    """Seconds of a step over 1 to ``most`` places of so many rows, by the number of places."""
    (backbone,) = GuidedDecoder(model).engine.backbones
    session = backbone.session(batch, CONTEXT + most)
    rows = torch.randint(3, model.config.vocab_size, (batch, CONTEXT + most), device=DEVICE)
    session.prefill([list(rows[:, :CONTEXT])])

    def step(places: int) -> None:
        (logits,) = session.append(rows[:, CONTEXT : CONTEXT + places])
        count = batch * places
        seeds, weights = torch.arange(count, device=DEVICE), torch.ones(count, 1, device=DEVICE)
        genarm_kernels.guided_sample([logits.flatten(0, 1)], weights, seed=seeds, position=seeds)
        session.take_back(torch.full((batch,), places, device=DEVICE))

    return {str(places): partial(clock(), partial(step, places)) for places in range(1, most + 1)}


def clock() -> Callable[[Callable[[], object]], float]:
    """What times a call: a device's own events, or a processor's time."""
    return seconds_of if DEVICE.type == "cuda" else cpu_seconds


def cpu_seconds(call: Callable[[], object]) -> float:
    """The processor's time of a call."""
    started = time.process_time()
    call()
    return time.process_time() - started


@torch.no_grad()
def costs(model: Any, batch: int, rounds: int = ROUNDS, most: int = MOST + 1) -> dict[str, Any]:
    """Of steps of so many rows, the first of which is not counted."""
    found = rotate(steps(model, batch, most), rounds + 1)[1:]
    relative = [statistics.median(one[str(places)] / one["1"] for one in found) for places in range(1, most + 1)]
    return {"rows": batch, "ms": 1000 * statistics.median(one["1"] for one in found), "costs": relative}


def best_gamma(costs: list[float]) -> int:
    """The drafts that give the most tokens per time, where a step over q places costs ``costs[q - 1]`` of one and each
    draft behind right ones is right with probability ``RIGHT``; 0 where that is not ``GAIN`` times a plain step's."""

    def worth(gamma: int) -> float:
        return sum(RIGHT**one for one in range(gamma + 1)) / costs[gamma]

    best = max(range(len(costs)), key=worth)
    return best if worth(best) >= GAIN * worth(0) else 0


def usual(record: Mapping[str, Any], rows: int) -> int:
    """What ``genarm.engine.policy`` is to have for so many rows: the drafts of the fewest measured that are as many,
    none for more than ``MOST_ROWS``."""
    fitting = (one for one in record["batches"] if rows <= one["rows"] <= MOST_ROWS)
    return next((best_gamma(one["costs"]) for one in fitting), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the figures, as JSON")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = family(MODEL, DTYPE, DEVICE).base
    record: dict[str, Any] = {
        "suite": "speculation_costs",
        **environment(),
        "command": f"python -m bench.speculation_costs --out {options.out}",
        "clock": "device events" if DEVICE.type == "cuda" else "processor time of one thread",
        "model": MODEL,
        "dtype": str(DTYPE).removeprefix("torch."),
        "context": CONTEXT,
        "rounds": options.rounds,
        "batches": [],
    }
    for batch in BATCHES:  # what was measured is kept, if a run is cut
        one = costs(model, batch, options.rounds)
        record["batches"].append(one)
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        relative = " ".join(f"{cost:.2f}" for cost in one["costs"])
        print(f"{batch:>3} rows: {one['ms']:7.1f} ms, {relative}, {best_gamma(one['costs'])} drafts", flush=True)


if __name__ == "__main__":
    main()
