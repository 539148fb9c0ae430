"""What several places cost: the rule that sets the policy's table, the figures it was set by, and the scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.decode_models import config, random_model
from bench.measure import DEVICE
from bench.speculation_costs import BATCHES, DTYPE, MOST_ROWS, best_gamma, costs, usual
from bench.speculation_overhead import overhead
from genarm.engine.policy import EXTRA, USUAL

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "cpu-avx2"


@pytest.mark.parametrize(
    ("relative", "gamma"),
    [([1.0] * 8, 7), ([1.0, 1.1, 1.5, 2.0], 1), ([1.0, 1.2, 1.4, 1.8], 2), ([1.0, 1.7, 2.4, 3.1], 0)],
)
def test_as_many_are_drafted_as_pay(relative: list[float], gamma: int) -> None:
    """At 0.7 right: 1, 1.7, 2.19, 2.53 tokens of steps with 0 to 3."""
    assert best_gamma(relative) == gamma


def test_the_policy_s_table_is_what_was_measured() -> None:
    record = json.loads((RESULTS / "speculation_costs.json").read_text())
    assert [one["rows"] for one in record["batches"]] == list(BATCHES)
    for rows in range(1, MOST_ROWS + 2):
        assert next((drafts for most, drafts in USUAL["cpu"] if rows <= most), 0) == usual(record, rows)


def test_the_allowance_s_costs_are_what_was_measured() -> None:
    record = json.loads((RESULTS / "speculation_costs.json").read_text())
    for one in record["batches"][:3]:
        gamma, extra = (next(value for most, value in table["cpu"] if one["rows"] <= most) for table in (USUAL, EXTRA))
        assert abs(1 + extra - one["costs"][int(gamma)]) < 0.02


def test_text_that_nothing_foretells_costs_within_three_percent() -> None:
    record = json.loads((RESULTS / "speculation_overhead.json").read_text())
    assert {one["rows"] for one in record["batches"]} == {1, 2}
    assert all(one["ratio"] <= 1.03 for one in record["batches"])


def test_the_scripts_measure_steps() -> None:
    model = random_model(config("tiny"), DTYPE, DEVICE)
    found = costs(model, batch=2, rounds=1, most=3)
    assert found["rows"] == 2 and len(found["costs"]) == 3 and min(found["costs"]) > 0
    assert overhead(model, 1, tokens=4, rounds=1)["ratio"] > 0
