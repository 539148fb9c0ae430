"""What a Pareto sweep over a 5 × 5 grid costs, against 25 decodes of the same prompt one by one.

    python -m experiments.pareto_cost --json bench/results/cpu/pareto_cost.json

The embedded base with two reward models; every text has as many new tokens, so that all do the same work. The ways
take turns in rounds, and a ratio is the median of the rounds' ratios. "apart" decodes each cell with all models, as the
sweep does, whose scores its front needs; "apart, own models" with those alone whose weight is not 0. docs/pareto.md
has the figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.report import environment
from genarm import GuidedDecoder
from genarm.embedded import BASE, REWARDS

NAMES = ("art", "science")
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
CELLS = [dict(zip(NAMES, weights, strict=True)) for weights in itertools.product(LEVELS, repeat=len(NAMES))]

Forwarded = dict[str, int]


def ways(decoder: GuidedDecoder, prompt: list[int], new_tokens: int) -> dict[str, Callable[[], Forwarded]]:
    """Each way to decode the grid's 25 cells with one row seed -> tokens forwarded, by model."""
    options: dict[str, Any] = {"max_new_tokens": new_tokens, "eos_token_id": [], "return_logprobs": True}

    def sweep() -> Forwarded:
        out = decoder.generate([prompt] * len(CELLS), weights=CELLS, seed=[7] * len(CELLS), **options)
        return dict(out.stats.forwarded)

    def apart(choose: Callable[[dict[str, float]], GuidedDecoder]) -> Forwarded:
        total: Counter[str] = Counter()
        for cell in CELLS:
            one = choose(cell)
            weights = {name: cell[name] for name in one.reward_names}
            total.update(one.generate([prompt], weights=weights, seed=[7], **options).stats.forwarded)
        return dict(total)

    return {
        "sweep": sweep,
        "apart": lambda: apart(lambda cell: decoder),
        "apart, own models": lambda: apart(lambda cell: decoder.only(*(name for name in NAMES if cell[name]))),
    }


def measured(decoder: GuidedDecoder, prompt: list[int], new_tokens: int, rounds: int) -> dict[str, Any]:
    """Seconds and tokens of each way, and the sweep's share of the others' seconds."""
    found = ways(decoder, prompt, new_tokens)
    forwarded = {name: way() for name, way in found.items()}  # which warms up, too
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(rounds):
        order = list(found)[turn % len(found) :] + list(found)[: turn % len(found)]
        for name in order:
            started = time.perf_counter()
            found[name]()
            seconds[name].append(time.perf_counter() - started)
    ratios = {
        name: statistics.median(a / b for a, b in zip(seconds["sweep"], seconds[name], strict=True))
        for name in found
        if name != "sweep"
    }
    return {
        "prompt_tokens": len(prompt),
        "new_tokens": new_tokens,
        "median_seconds": {name: round(statistics.median(own), 4) for name, own in seconds.items()},
        "sweep_over": {name: round(ratio, 4) for name, ratio in ratios.items()},
        "forwarded": forwarded,
        "prompts_read": {  # by the base: what it forwarded beside the new tokens, all but each text's last
            name: round((own["base"] - len(CELLS) * (new_tokens - 1)) / len(prompt), 3)
            for name, own in forwarded.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--prompt-tokens", type=int, nargs="+", default=[4, 256])
    given = parser.parse_args()
    rewards = {name: REWARDS[name] for name in NAMES}
    decoder = GuidedDecoder.from_pretrained(BASE, rewards, device="cpu", max_batch_size=len(CELLS))
    text: list[int] = decoder.tokenizer("I really enjoy painting and music, and the sciences too. " * 60)["input_ids"]
    rows = [measured(decoder, text[:count], given.new_tokens, given.rounds) for count in given.prompt_tokens]
    for row in rows:
        print(json.dumps(row))
    if given.json is not None:
        record = {**environment(), "cells": len(CELLS), "rounds": given.rounds, "rows": rows}
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
