"""What n-grams cost where there is nothing to draft: decoding of text that never repeats itself, with them and without.

    python -m bench.speculation_overhead --out bench/results/cpu-avx2/speculation_overhead.json

Random words as prompts of the 201M Llama of `make bench-decode`, whose draws at temperature 1 are random words too.
The two ways take turns, round by round, and decode the same tokens. Time is of a whole call, on a CPU the processor's
for one thread, so that what else a machine does counts little.
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.decode_models import family
from bench.measure import DEVICE
from bench.report import environment
from bench.speculation_costs import DTYPE, MODEL, clock
from genarm import GuidedDecoder
from genarm.cli.bench import rotate

PROMPT, TOKENS, ROUNDS = 32, 33, 9
WAYS = (None, "ngram")


def overhead(model: Any, rows: int, tokens: int = TOKENS, rounds: int = ROUNDS) -> dict[str, Any]:
    """The time with n-grams over that without, in the median of rounds, the first of which is not counted."""
    decoder = GuidedDecoder(model)
    prompts = torch.randint(3, model.config.vocab_size, (rows, PROMPT), generator=torch.Generator().manual_seed(1))
    outs: dict[str, Any] = {}

    def call(way: str | None) -> None:
        outs[str(way)] = decoder.generate(
            prompts.to(DEVICE), torch.ones_like(prompts), max_new_tokens=tokens, eos_token_id=[], seed=1, speculate=way
        )

    found = rotate({str(way): partial(clock(), partial(call, way)) for way in WAYS}, rounds + 1)[1:]
    plain, drafted = (outs[str(way)] for way in WAYS)
    assert all(torch.equal(one, other) for one, other in zip(plain.tokens, drafted.tokens, strict=True))
    ratios = sorted(one["ngram"] / one["None"] for one in found)
    return {
        "rows": rows,
        "ms_per_step": 1000 * statistics.median(one["None"] for one in found) / tokens,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "drafted": drafted.stats.drafted,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the figures, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = family(MODEL, DTYPE, DEVICE).base
    record = {
        "suite": "speculation_overhead",
        **environment(),
        "command": f"python -m bench.speculation_overhead --out {options.out}",
        "model": MODEL,
        "dtype": str(DTYPE).removeprefix("torch."),
        "prompt": PROMPT,
        "tokens": TOKENS,
        "rounds": ROUNDS,
        "batches": [overhead(model, rows) for rows in (1, 2)],
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for one in record["batches"]:
        print(f"{one['rows']} rows: {one['ratio']:.3f} of {one['ms_per_step']:.1f} ms, {one['drafted']} drafted")


if __name__ == "__main__":
    main()
