"""Does guidance make texts shorter, is that EOS's doing, and do reward models judge more than length?

    python -m experiments.length_bias --data DATA --output OUT --trajectory-rm art=FOLDER
    python -m experiments.length_bias --output OUT --picture docs/length-bias.png   # tables and picture again

DATA is the directory that holds persona/. The embedded models are measured; experiments.weak_to_strong leaves a
trajectory RM for `art` in its OUT/judge. A run that was stopped goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.report import environment
from experiments.length_bias.lengths import lengths_by_weight, parts, rewards_of_eos
from experiments.length_bias.matched import accuracies
from experiments.length_bias.report import draw, tables
from genarm.embedded import REWARDS

FILE = "length_bias.json"


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What a file holds, made first where it is not there."""
    if not path.is_file():
        begun = path.with_suffix(".new")
        begun.write_text(json.dumps(make()), encoding="utf-8")
        begun.rename(path)
        print(path.stem, flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


def run(
    data: Path, out: Path, trajectory_rms: dict[str, Path], texts: int, paths: int, pairs: int, seeds: Sequence[int]
) -> None:
    """Everything, into OUT/length_bias.json."""
    out.mkdir(parents=True, exist_ok=True)
    objectives = {}
    for name in REWARDS:
        trajectory_rm = trajectory_rms.get(name)
        jobs: dict[str, Callable[[], Any]] = {
            "lengths": lambda name=name: lengths_by_weight(name, texts, seeds),
            "eos": lambda name=name: rewards_of_eos(name, texts, seeds),
            "parts": lambda name=name: parts(name, paths, seeds),
            "accuracy": lambda name=name, judge=trajectory_rm: accuracies(name, data, out, pairs, judge),
        }
        objectives[name] = {job: kept(out / f"{name}-{job}.json", make) for job, make in jobs.items()}
    figures = {
        "command": "python -m experiments.length_bias --data DATA --output OUT --trajectory-rm art=FOLDER",
        "environment": environment(),
        "settings": {"texts_per_seed": texts, "paths_per_seed": paths, "pairs": pairs, "seeds": list(seeds)},
        "objectives": objectives,
    }
    (out / FILE).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def named(text: str) -> tuple[str, Path]:
    """NAME=FOLDER of an embedded adapter's objective."""
    name, _, folder = text.partition("=")
    if name not in REWARDS or not Path(folder).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER with a NAME of {', '.join(REWARDS)}")
    return name, Path(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="directory that holds persona/; left out, OUT's figures are shown")
    parser.add_argument("--output", type=Path, required=True, help="where the figures go and are kept")
    parser.add_argument("--trajectory-rm", type=named, action="append", default=[], help="NAME=FOLDER, repeatable")
    parser.add_argument("--texts", type=int, default=40, help="texts per weight and seed (default: 40)")
    parser.add_argument("--paths", type=int, default=16, help="paths per seed for EOS's part (default: 16)")
    parser.add_argument("--pairs", type=int, default=300, help="pairs drawn without regard to length (default: 300)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of decoding (default: 0 1 2)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--picture", type=Path, help="draw the figures into this file too")
    options = parser.parse_args(arguments)
    if options.data is not None:
        torch.set_num_threads(options.threads)
        sizes = options.texts, options.paths, options.pairs
        run(options.data, options.output, dict(options.trajectory_rm), *sizes, options.seeds)
    elif not (options.output / FILE).is_file():
        parser.error(f"{options.output} holds no figures yet: give --data to make them")
    figures = json.loads((options.output / FILE).read_text(encoding="utf-8"))
    print(tables(figures))
    if options.picture is not None:
        draw(figures, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
