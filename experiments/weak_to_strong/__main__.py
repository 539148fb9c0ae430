"""How much of a large reward model's effect does a small one have, and what does each cost?

    python -m experiments.weak_to_strong --data DATA --output OUT
    python -m experiments.weak_to_strong --output OUT --picture docs/weak-to-strong.png   # tables and picture again

DATA is the directory that holds persona/. OUT keeps models, texts and figures; a run that was stopped goes on with what
is missing. It takes about ten minutes of one free CPU thread, more than half of them for training. Needs the
`train` and `plots` extras.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.report import environment
from experiments.weak_to_strong import models
from experiments.weak_to_strong.figures import gaps, points
from experiments.weak_to_strong.models import SIZES, Place
from experiments.weak_to_strong.overhead import measure
from experiments.weak_to_strong.report import draw, tables
from experiments.weak_to_strong.texts import make_texts, read_texts

FILE = "weak_to_strong.json"


def run(place: Place, count: int, seeds: Sequence[int], rounds: int) -> None:
    """Everything, into OUT/weak_to_strong.json."""
    for size in SIZES:
        models.make_base(place, size)
        models.make_reward_model(place, size)
    judge = models.make_judge(place)
    make_texts(place, judge, count, seeds)
    texts = read_texts(place, seeds)
    figures = {
        "command": "python -m experiments.weak_to_strong --data DATA --output OUT",
        "environment": environment(),
        "settings": {"texts_per_seed": count, "seeds": list(seeds), "limit": place.limit, "timing_rounds": rounds},
        "models": {size: models.model_facts(place, size) for size in SIZES},
        "judge": models.judge_facts(place, judge),
        "points": points(texts),
        "gaps": gaps(texts),
        "overhead": measure(place, rounds),
    }
    (place.out / FILE).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="directory that holds persona/; left out, OUT's figures are shown")
    parser.add_argument("--output", type=Path, required=True, help="where models, texts and figures go and are kept")
    parser.add_argument("--texts", type=int, default=100, help="texts per setting and seed (default: 100)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of decoding (default: 0 1 2)")
    parser.add_argument("--rounds", type=int, default=7, help="of timing (default: 7)")
    parser.add_argument("--limit", type=int, help="rows of every file, for a trial (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--picture", type=Path, help="draw the figures into this file too")
    options = parser.parse_args(arguments)
    if options.data is not None:
        torch.set_num_threads(options.threads)
        run(Place(options.data, options.output, options.limit), options.texts, options.seeds, options.rounds)
    elif not (options.output / FILE).is_file():
        parser.error(f"{options.output} holds no figures yet: give --data to make them")
    figures = json.loads((options.output / FILE).read_text(encoding="utf-8"))
    print(tables(figures))
    if options.picture is not None:
        draw(figures, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
