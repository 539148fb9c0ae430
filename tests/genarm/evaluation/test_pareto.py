"""Fronts, hypervolumes and their intervals against definitions that count; cells and figures of a sweep."""

from __future__ import annotations

import itertools
import json
import math
import sys

import numpy as np
import pytest
from rich.console import Console

from genarm import GenARMError
from genarm.errors import InvalidArgumentError
from genarm.evaluation import pareto_plot
from genarm.evaluation.cells import Cell, guided_cells, policy_cells, simplex, soup_cells
from genarm.evaluation.pareto import FIGURES, Sweep, families, front, hypervolume, nondominated, reference_point
from genarm.evaluation.pareto_report import as_record, show
from genarm.evaluation.pareto_texts import measured, whole_prompts


def dominates(one, other):
    return all(a >= b for a, b in zip(one, other, strict=True)) and any(a > b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_front_is_what_no_other_point_dominates_and_its_volume_is_counted_in_unit_cubes(count):
    generator = np.random.default_rng(count)
    for _ in range(5):
        points = generator.integers(0, 5, size=(8, count))  # few values, so that some are equal and some in line
        expected = [not any(dominates(other, one) for other in points) for one in points]
        assert nondominated(points.astype(float)).tolist() == expected
        cubes = itertools.product(range(-1, 5), repeat=count)  # each by its lowest corner, above the reference point
        covered = sum(
            any(all(low + 1 <= c for low, c in zip(cube, one, strict=True)) for one in points) for cube in cubes
        )
        assert hypervolume(points.astype(float), [-1.0] * count) == pytest.approx(covered)


def test_what_is_below_the_reference_point_or_not_finite_has_no_volume_and_no_place():
    points = np.array([[1.0, 1.0], [5.0, -3.0], [-math.inf, 9.0], [math.nan, 9.0]])
    assert hypervolume(points, [0.0, 0.0]) == 1.0
    assert nondominated(points).tolist() == [True, True, False, False]
    assert hypervolume(points[2:], [0.0, 0.0]) == 0.0
    assert reference_point(points) == pytest.approx([1.0 - 0.4, -3.0 - 0.4])


def test_a_grid_has_every_combination_the_base_and_each_objective_alone():
    grid = [cell.weights for cell in guided_cells(("a", "b"), [0.0, 0.5, 1.0])]
    assert grid == list(itertools.product([0.0, 0.5, 1.0], repeat=2))
    without = [cell.weights for cell in guided_cells(("a", "b"), [0.5, 1.0])]
    assert without == [*itertools.product([0.5, 1.0], repeat=2), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]
    assert [cell.weights for cell in guided_cells(("a", "b"), steps=2)] == [(1, 0), (0.5, 0.5), (0, 1), (0, 0)]


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (4, 2), (3, 3), (2, 4)])
def test_a_simplex_has_every_way_to_share_one_in_so_many_parts(steps, count):
    every = {way for way in itertools.product(range(steps + 1), repeat=count) if sum(way) == steps}
    assert {tuple(round(steps * share) for share in shares) for shares in simplex(steps, count)} == every
    assert len(simplex(steps, count)) == len(every)


def test_a_soup_stands_beside_each_mixed_cell_with_its_shares_and_its_total():
    cells = guided_cells(("a", "b"), [0.0, 0.5, 1.0])
    soups = soup_cells(cells)
    assert [cell.weights for cell in soups] == [(0.5, 0.5), (0.5, 1.0), (1.0, 0.5), (1.0, 1.0)]
    assert [cell.decoder_weights() for cell in soups] == [{"soup": total} for total in (1.0, 1.5, 1.5, 2.0)]
    assert soups[0].shares == soups[3].shares == (0.5, 0.5) and soups[1].shares == pytest.approx((1 / 3, 2 / 3))
    every = families([*cells, *soups, *policy_cells(("p", "q"), 1)])
    assert every == {
        "guided": list(range(9)),
        "each alone": [0, 1, 2, 3, 6],
        "soups": [0, 1, 2, 3, 6, 9, 10, 11, 12],
        "policies": [0, 13, 14],
    }


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: guided_cells(("a",), [0.0, 1.0]), "two objectives and there is 1"),
        (lambda: guided_cells(("a", "b"), [0.0]), "one of them not 0"),
        (lambda: guided_cells(("a", "b"), [math.nan, 1.0]), "give weights"),
        (lambda: guided_cells(tuple("abcdef"), [0, 1, 2, 3]), "4096 cells"),
        (lambda: guided_cells(tuple("abcdef"), steps=60), "at most 2000"),
        (lambda: soup_cells(guided_cells(("a", "b"), [-1.0, 1.0])), "negative weights"),
        (lambda: front(sweep_of(np.zeros((2, 3, 5))), [0.0]), "one per objective, 2"),
    ],
    ids=["one", "zeros", "nan", "grid", "steps", "negative", "reference"],
)
def test_what_is_no_sweep_is_refused(call, words):
    with pytest.raises(InvalidArgumentError, match=words):
        call()


def sweep_of(values, cells=None):
    cells = cells or [Cell("guided", ("a", "b"), weights) for weights in ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))]
    return Sweep(cells, ("a", "b"), ("mean", "mean"), values, [1.0] * len(cells))


def test_intervals_resample_units_for_all_cells_at_once():
    values = np.random.default_rng(0).normal(size=(6, 3, 5))
    found = front(sweep_of(values), reference=[-2.0, -2.0], draws=50, seed=3)
    picks = np.random.default_rng(3).integers(6, size=(50, 6))
    means = np.stack([values[pick].mean(0) for pick in picks])  # [50, 3, 5]
    for cell in range(3):
        for place, name in enumerate(("a", "b", *FIGURES)):
            estimate = found.estimates[cell][name]
            assert estimate.value == pytest.approx(values[:, cell, place].mean())
            assert [estimate.low, estimate.high] == pytest.approx(np.percentile(means[:, cell, place], [2.5, 97.5]))
    volumes = np.array([[hypervolume(draw[:, :2], [-2, -2]), hypervolume(draw[:2, :2], [-2, -2])] for draw in means])
    guided, alone = found.hypervolumes["guided"].estimate, found.hypervolumes["each alone"]
    assert [guided.low, guided.high] == pytest.approx(np.percentile(volumes[:, 0], [2.5, 97.5]))
    difference = volumes[:, 0] - volumes[:, 1]
    assert [alone.guided_minus.low, alone.guided_minus.high] == pytest.approx(np.percentile(difference, [2.5, 97.5]))
    often = np.mean([[not any(dominates(o, one) for o in d) for one in d] for d in means[:, :, :2]], axis=0)
    assert found.how_often == pytest.approx(often) and found.how_often.min() > 0


def row(text, count, drawn, **sums):
    return {"text": text, "token_count": count, "logprob_sum": drawn, "logprob_sums": sums, "finish_reason": "eos"}


TEXTS = [  # two prompts, two cells, two samples
    [[row("x y", 2, -3.0, base=-4.0, a=-2.0, b=-6.0), row("x y z", 4, -5.0, base=-5.0, a=-4.0, b=-8.0)]] * 2,
    [[row("w", 1, -1.0, base=-3.0, a=-1.0, b=None), row("v", 1, -1.0, base=-2.0, a=-3.0, b=-1.0)]] * 2,
]
CELLS = [Cell("guided", ("a", "b"), (0.0, 0.0)), Cell("guided", ("a", "b"), (1.0, 1.0))]


def test_a_cell_is_placed_by_the_means_over_its_texts():
    by_mean = measured(TEXTS, CELLS, ("a", "b"))
    assert by_mean.values.shape == (2, 2, 5) and by_mean.unit == "prompts"
    assert by_mean.values[0, 0].tolist() == [-1.0, -2.5, 0.5, 0.25, 3.0]  # a, b, KL, KL per token, tokens
    assert by_mean.values[1, 0].tolist() == [-2.0, -math.inf, 1.5, 1.5, 1.0]
    assert by_mean.distinct == [2 / 3, 2 / 3]  # x y, x y, y z
    by_sum = measured(TEXTS, CELLS, ("a", "b"), score="sum", temperature=0.0)
    assert by_sum.values[0, 1].tolist() == [-3.0, -7.0, 4.5, 1.625, 3.0]  # at temperature 0 a text is certain
    own = [[[{**TEXTS[0][0][0], "temperature": 0}] * 2] * 2]
    assert measured(own, CELLS, ("a", "b")).values[0, 0].tolist() == [-1.0, -3.0, 4.0, 2.0, 2.0]
    scored = measured(TEXTS, CELLS, ("a", "b"), scores={"b": np.arange(8.0).reshape(2, 2, 2)})
    assert scored.values[:, :, 1].tolist() == [[0.5, 2.5], [4.5, 6.5]]
    assert scored.measures == ("mean log π_r, nats per token", "score of a trajectory RM")
    alone = measured(TEXTS[:1], CELLS, ("a", "b"))
    assert alone.values[:, 1, 0].tolist() == [-1.0, -1.0] and "texts" in alone.unit


def test_a_prompt_with_a_row_that_failed_is_in_no_figure():
    failed = [[TEXTS[0][0], [{"error": "no room", "finish_reason": "error"}] * 2], *TEXTS]
    assert whole_prompts(failed) == [1, 2]
    with pytest.raises(GenARMError, match=r"every prompt has a row that failed.*no room"):
        whole_prompts(failed[:1])


def test_tables_record_and_picture_show_every_family_and_json_has_no_infinity(tmp_path):
    names = ("a", "b", "c")
    cells = guided_cells(names, [0.0, 1.0])
    cells += [*soup_cells(cells), *policy_cells(("p", "q"), 2)]
    values = np.random.default_rng(1).normal(size=(5, len(cells), 6))
    values[0, 2, 1] = -math.inf
    sweep = Sweep(cells, names, ("m", "m", "score"), values, [math.nan, *[0.5] * (len(cells) - 1)])
    found = front(sweep, draws=20)
    record = json.loads(json.dumps(as_record(found), allow_nan=False))
    assert [cell["weights"] for cell in record["cells"]] == [dict(zip(c.names, c.weights, strict=True)) for c in cells]
    assert record["cells"][2]["scores"]["b"]["value"] is None and not record["cells"][2]["on_front"]
    assert record["intervals"] == {"over": "prompts", "count": 5}
    assert set(record["hypervolumes"]) == {"guided", "each alone", "soups", "policies"}
    assert record["hypervolumes"]["soups"]["guided_minus_this"]["value"] == pytest.approx(
        record["hypervolumes"]["guided"]["value"] - record["hypervolumes"]["soups"]["value"], abs=1e-5
    )
    console = Console(width=80, record=True, file=(tmp_path / "table").open("w"))
    show(found, console)
    text = console.export_text()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    assert all(word in text for word in ("soups", "policies", "shares of p, q", "Reference point", "guided minus this"))
    pareto_plot.draw(found, tmp_path / "three.png")  # three pairs of objectives
    assert (tmp_path / "three.png").read_bytes().startswith(b"\x89PNG")


def test_a_staircase_goes_round_what_the_front_dominates():
    corners = pareto_plot._staircase(np.array([[3.0, 1.0], [1.0, 3.0], [2.0, 2.5]]))
    assert corners.tolist() == [[1, 3], [1, 2.5], [2, 2.5], [2, 1], [3, 1]]


def test_without_moocore_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "moocore", None)
    with pytest.raises(GenARMError, match=r"genarm\[pareto\]"):
        hypervolume(np.ones((1, 2)), [0.0, 0.0])
