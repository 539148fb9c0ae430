"""Guided answers by particles beside plain guided decoding and best-of-n: on topic, plausible, long and varied?

    python -m experiments.particles --data DATA --output OUT
    python -m experiments.particles --output OUT --picture docs/particles-frontier.png   # tables and picture again

DATA is the directory that holds persona/, the statements that the embedded models' data come from: the judge is trained
on them. OUT keeps the answers of every setting and the figures; a run that was stopped goes on with what is missing. It
takes about twenty minutes of one free CPU thread. Needs scikit-learn (extra `dev`); the picture needs extra `plots`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from bench.report import environment
from experiments.particles import cells
from experiments.particles.decoding import BATCH, NEW_TOKENS, kept, load_decoder
from experiments.particles.judge import fit_judge, quality
from experiments.particles.metrics import AMONG
from experiments.particles.pictures import draw
from experiments.particles.report import tables
from experiments.particles.results import results

FILE = "particles.json"


def run(data: Path, out: Path) -> None:
    """Everything, into OUT/particles.json."""
    judge, decoder = fit_judge(data), cache(load_decoder)
    parts = {
        "frontier": cells.frontier(),
        "lengths": cells.lengths(),
        "evidence": cells.evidence(),
    }
    draws = {
        name: {cell: kept(out / "settings", cell, decoder, judge.predict) for cell in own}
        for name, own in parts.items()
    }
    every = [one for own in draws.values() for one in own.values()]
    figures = {
        "command": "python -m experiments.particles --data DATA --output OUT",
        "environment": environment(),
        "cpu_seconds": round(sum(one["seconds"] for one in every)),
        "settings": {
            "prompts": list(cells.PROMPTS),
            "systems_per_prompt_and_round": cells.SYSTEMS,
            "rounds_of_what_is_checked": cells.CHECKED_ROUNDS,
            "most_answers_per_system": cells.MOST_ANSWERS,
            "new_tokens": NEW_TOKENS,
            "batch": BATCH,
            "distinct_among": AMONG,
            "seed": "the number of particles + 1000 times the round's number",
        },
        "judge": quality(judge, data),
        **results(**draws),
    }
    (out / FILE).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="directory that holds persona/; left out, OUT's figures are shown")
    parser.add_argument("--output", type=Path, required=True, help="where answers and figures go and are kept")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--picture", type=Path, help="draw the frontier into this file too")
    options = parser.parse_args(arguments)
    if options.data is not None:
        torch.set_num_threads(options.threads)
        options.output.mkdir(parents=True, exist_ok=True)
        run(options.data, options.output)
    elif not (options.output / FILE).is_file():
        parser.error(f"{options.output} holds no figures yet: give --data to make them")
    figures = json.loads((options.output / FILE).read_text(encoding="utf-8"))
    print(tables(figures))
    if options.picture is not None:
        draw(figures, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
