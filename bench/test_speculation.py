"""Decoding with drafts against decoding without, on models that quote and on those that ship (docs/speculation.md).

    python -m pytest bench/test_speculation.py -m "not full"

A case's contenders are measured in turn when the first of them is asked for; each has its own row.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import measure
from bench.speculation import DTYPE, GUIDED, PLAIN, WEAK, Case, Contender, measured
from bench.test_decode import spread

NGRAMS = (PLAIN, GUIDED, Contender("lora", "ngram", 4))
ALL = (*NGRAMS, Contender("lora", "ngram", 7), WEAK, Contender("weak", "reward", 4))
KINDS = ("quoting", "chat", "random")
CASES = [
    *(Case("embedded", kind, 0.7, NGRAMS, tokens=65) for kind in KINDS),  # first, as they need no training
    *(Case("copy", "quoting", temperature, ALL) for temperature in (0.7, 0.0)),
    *(Case("embedded", kind, 0.0, NGRAMS, tokens=65, full=True) for kind in KINDS),
    *(Case("copy", kind, 0.7, NGRAMS, full=True) for kind in KINDS[1:]),
    Case("copy", "quoting", 0.7, NGRAMS, batch=4, full=True),
]
ROWS = [
    pytest.param(case, one, id=f"{case.name}-{one.name}", marks=[pytest.mark.full] if case.full else [])
    for case in CASES
    for one in case.contenders
]


@pytest.mark.benchmark(timer=measure.CLOCK)
@pytest.mark.parametrize(("case", "contender"), ROWS)
def test_speculation(benchmark: Any, case: Case, contender: Contender) -> None:
    found = measured(case)
    rounds = iter(found.figures(contender))
    benchmark.pedantic(lambda: measure.CLOCK.advance(next(rounds).seconds), rounds=case.rounds)
    over = None if contender.draft is None else found.ratios(contender, contender.undrafted)
    benchmark.extra_info.update(
        {
            "contender": contender.name,
            "model": case.model,
            "prompts": case.prompts,
            "T": case.temperature,
            "B": case.batch,
            "tokens": case.tokens - 1,
            "dtype": str(DTYPE).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "engine": found.figures(contender)[0].engine,
            **found.counts(contender),
            "same": found.same(contender),
            **spread("ratio", found.ratios(contender, PLAIN)),
            **spread("over_undrafted", over),
        }
    )
