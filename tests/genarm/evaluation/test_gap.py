"""Gaps to the product over whole answers: against literal loops, simulated answers, and tables that are known whole."""

from __future__ import annotations

import math
import re
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console

from genarm import GuidedDecoder
from genarm.evaluation import gap_plot
from genarm.evaluation.cells import Cell
from genarm.evaluation.gap import Evidence, gap, in_words, scaled_cells
from genarm.evaluation.gap_report import as_record, show
from genarm.evaluation.tabular import joint, kl
from genarm.evaluation.tabular_models import lm_from_tables

CELL = Cell("guided", ("art",), (1.0,))


def systems(values, cell=CELL) -> Evidence:
    """Log Ẑ [P, S] by number of particles, with seconds and tokens that say which number it is."""
    found = {n: np.array(own, dtype=float) for n, own in values.items()}
    return Evidence(cell, found, {n: (0.031 * n, 2.0 * n) for n in found}, {n: 10.0 * n for n in found})


def test_bounds_are_their_definitions():
    values = {1: [[-5.0, -9.0], [-1.0, -2.0]], 4: [[-4.0, -3.0], [-1.5, -0.5]]}
    found = gap(systems(values), draws=10)
    means = {n: sum(map(sum, own)) / 4 for n, own in values.items()}
    pooled = [math.log(sum(math.exp(value) for value in own) / 2) for own in values[4]]
    plain, four = found.closed
    assert (plain.bound.value, plain.left.value) == (0, pytest.approx(found.best.value))
    assert (plain.seconds, four.seconds, four.tokens) == ((0.031, 2.0), (0.124, 8.0), 40.0)
    assert four.log_evidence.value == means[4] and four.bound.value == pytest.approx(means[4] - means[1])
    assert found.best.value == pytest.approx(sum(pooled) / 2 - means[1]) and found.pooled == 8
    assert four.left.value == found.last_growth == pytest.approx(sum(pooled) / 2 - means[4])
    assert four.share == pytest.approx(four.bound.value / found.best.value)
    assert found.by_prompt.tolist() == pytest.approx([pooled[0] + 7, pooled[1] + 1.5])


def test_intervals_cover_the_bound_over_prompts_and_over_the_samples_of_one():
    generator = np.random.default_rng(0)
    for prompts, samples, least in ((12, 3, 85), (1, 16, 85)):
        covered = 0
        for _ in range(100):
            own = generator.normal(0, 5.0 if prompts > 1 else 0.0, (prompts, 1))  # a prompt's own bound, 2 on average
            plain = generator.normal(0, 2, (prompts, samples))
            found = gap(systems({1: plain, 4: 2 + own + generator.normal(0, 1, plain.shape)}), draws=150)
            covered += found.closed[1].bound.low <= 2 <= found.closed[1].bound.high
        assert covered >= least, (prompts, covered)


@pytest.mark.parametrize(
    ("means", "spread", "words"),
    [
        ((-30.0, -9.0, -8.0), 0.1, "at least 22 nats .* 4 particles close 95% .* lower bound all the same"),
        ((-30.0, -29.0, -20.0), 4.0, "16 particles close 78% .* still grew by 2.7 nats .* may be much larger"),
        ((-8.0, -8.2, -8.2), 0.1, "no gap was found"),
        ((-math.inf, -8.0, -8.0), 0.1, "infinitely far"),
    ],
    ids=["flat", "growing", "none", "nothing may follow"],
)
def test_the_words_say_no_more_than_the_bound(means, spread, words):
    around = spread * np.array([[-1, -0.5, 0.5, 1]] * 2)
    values = {count: mean + around for count, mean in zip((1, 4, 16), means, strict=True)}
    found = in_words(gap(systems(values), draws=50))
    assert found.startswith("art=1: ") and re.search(words, found), found


def test_weights_are_multiplied_and_doubles_left_out():
    cells = scaled_cells(["a", "b"], [1.0, -0.5], [0.5, 2, 0.5])
    assert [cell.label for cell in cells] == ["a=0.5 b=-0.25", "a=2 b=-1"]


@pytest.fixture(scope="module")
def tables():
    """A base and two reward models over 3 ids and 4 tokens: their tables of log-probabilities in float64."""
    generator = torch.Generator().manual_seed(3)
    return [
        [
            (scale * torch.randn(3**t, 3, generator=generator, dtype=torch.float64)).float().double().log_softmax(1)
            for t in range(4)
        ]
        for scale in (1.0, 2.5, 1.5)
    ]


def test_on_tables_the_gap_is_the_divergence_and_no_bound_goes_beyond_it(tables):
    weights, samples, temperature = [1.0, 1.5, -0.5], 120, 0.7
    scores = [
        torch.stack([w * table for w, table in zip(weights, depth, strict=True)]).sum(0) / temperature
        for depth in zip(*tables, strict=True)
    ]
    scores = [each.masked_fill(each < each.topk(2, 1).values[:, 1:], -math.inf) for each in scores]
    q, product = joint([each.log_softmax(1) for each in scores]), joint(scores)
    truth, log_z = kl(q, product.log_softmax(0)), float(product.logsumexp(0))
    rewards = {name: lm_from_tables(own) for name, own in zip("ab", tables[1:], strict=True)}
    decoder = GuidedDecoder(lm_from_tables(tables[0]), rewards, max_batch_size=None)
    values = {}
    for particles in (1, 2, 6):
        out = decoder.generate(
            [[2]] * samples, weights={"a": 1.5, "b": -0.5}, max_new_tokens=4, eos_token_id=[], seed=particles,
            particles=particles, temperature=temperature, top_k=2,
        )  # fmt: skip
        values[particles] = out.log_evidence.cpu().numpy()[None]
    found = gap(systems(values), draws=200)
    noise = {n: own.std() / math.sqrt(samples) for n, own in values.items()}
    assert truth > 0.5 and values[1].mean() == pytest.approx(log_z - truth, abs=4 * noise[1])
    for one in found.closed:
        assert one.bound.value <= truth + 4 * math.hypot(noise[1], noise[one.particles])
    assert found.best.value == pytest.approx(truth, abs=4 * noise[1]) and noise[1] < truth / 10
    assert found.closed[0].share < found.closed[1].share < found.closed[2].share > 0.6


def test_a_table_fits_the_line_and_a_record_and_a_picture_hold_every_setting(tmp_path):
    several = []
    generator = np.random.default_rng(0)
    for cell in scaled_cells(["helpful", "harmless"], [1.0, 0.5], [0.5, 1]):
        values = {n: generator.normal(-900 + 70 * math.log(n), 3, (3, 8)) for n in (1, 4, 16)}
        several.append(gap(systems(values, cell), draws=50))
    console = Console(width=80, record=True, file=StringIO())
    show(several, console)
    lines = console.export_text().splitlines()
    titles = [line.strip() for line in lines if line.startswith("helpful=")]
    assert titles[:2] == ["helpful=0.5 harmless=0.25", "helpful=1 harmless=0.5"] and len(titles) == 4
    assert sum(line.startswith(" all 128") for line in lines) == 2
    rows = [line for line in lines if line.lstrip().startswith("16 ")]
    assert (
        len(rows) == 2
        and max(map(len, lines)) <= 80
        and all(row.split()[-3:] == ["160.0", "0.5", "32"] for row in rows)
    )
    record = as_record(several[1], [1, 2, "x"], np.array([-1.0, -2.0, -math.inf]))
    assert record["weights"] == {"helpful": 1.0, "harmless": 0.5} and record["best_bound"]["particles"] == 128
    assert [one["id"] for one in record["prompts"]] == [1, 2, "x"]
    assert record["prompts"][2]["sum_log_normalizers"] is None
    gap_plot.draw(several, 3, 8, tmp_path / "gap.png")
    assert (tmp_path / "gap.png").read_bytes().startswith(b"\x89PNG")
