"""What `make compare` does: train the models that the methods need, compare all methods, write the page of it.

    python -m experiments.comparison

Each step that was done is left alone, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from experiments.comparison.data import HELD_OUT, MOST_PROMPTS, PROMPTS, openings, read, write
from experiments.comparison.models import judge_all, train_all
from experiments.comparison.report import write_page

CONFIG, OUTPUT = Path("examples/compare.toml"), Path("out/compare")  # the first names models in the second


def main() -> int:
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {text}", flush=True)

    write(PROMPTS, openings(read(HELD_OUT))[:MOST_PROMPTS])
    models = OUTPUT / "models"
    train_all(models, say)
    accuracies = judge_all(models)
    say("the models are trained")
    command = [sys.executable, "-m", "genarm", "evaluate", "compare", "--config", CONFIG, "--output", OUTPUT]
    status = subprocess.run(command, check=False).returncode
    if status == 0:
        write_page(OUTPUT, accuracies)
        say("docs/comparison.md is written")
    return status


if __name__ == "__main__":
    sys.exit(main())
