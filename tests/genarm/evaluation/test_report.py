"""Reports: which reductions a scorer has, each data set's own scores, differences on the same pairs."""

import numpy as np
import pytest

from genarm.evaluation.choices import Choice
from genarm.evaluation.pair_sets import PairSet
from genarm.evaluation.report import as_record, reports
from genarm.evaluation.scorers import Scores
from genarm.preferences.statistics import paired_difference


def pair_set(lengths, clusters=None):
    pairs = [{"prompt_ids": [0], "chosen_ids": [1] * a, "rejected_ids": [1] * b} for a, b in lengths]
    cut = dict.fromkeys(("prompts_cut", "pairs_dropped"), 0)
    return PairSet("set", "set.jsonl", pairs, np.array(lengths), clusters or list(range(len(pairs))), None, cut, "")


def scores(name, kind, *values):
    return Scores(Choice(name, kind, "path"), [np.array(own) for own in values])


def test_sums_and_means_are_told_apart_for_all_but_trajectory_rms():
    sums = [[-20.0, -6.0], [-6.0, -20.0]]  # the longer response has the better mean and the worse sum
    given = [scores("a", "arm", sums), scores("j", "trajectory-rm", sums), scores("base", "base", sums)]
    (report,) = reports([pair_set([[10, 2], [2, 10]])], given)
    labels = ["a", "a, per token", "j", "base alone", "base, per token"]
    assert [(row.label, row.accuracy.estimate.value) for row in report.rows] == [(label, 0.5) for label in labels]
    assert [row.accuracy.picks_longer.value for row in report.rows] == [0.0, 1.0, 0.0, 0.0, 1.0]
    (report,) = reports([pair_set([[2, 4], [40, 20]])], [scores("a", "arm", [[-4.0, -4.0], [-80.0, -60.0]])])
    assert report.rows[1].accuracy.estimate.value == 0.5  # -2 against -1 is wrong, -2 against -3 right


def test_each_data_set_has_its_own_scores():
    found = reports([pair_set([[2, 2]]), pair_set([[2, 2]])], [scores("a", "arm", [[1.0, 0.0]], [[0.0, 1.0]])])
    assert [report.rows[0].accuracy.estimate.value for report in found] == [1.0, 0.0]


def test_the_first_scorer_is_compared_with_every_other_over_the_same_clusters():
    generator, clusters = np.random.default_rng(0), [n // 4 for n in range(80)]
    first, second, base = (generator.random((80, 2)) + np.repeat(generator.random((20, 2)), 4, 0) for _ in range(3))
    given = [scores("a", "arm", first), scores("b", "dpo", second), scores("base", "base", base)]
    (report,) = reports([pair_set([[2, 2]] * 80, clusters)], given)
    assert [(found.name, found.other) for found in report.differences] == [("a", "b"), ("a", "base")]
    expected = paired_difference(first[:, 0] > first[:, 1], second[:, 0] > second[:, 1], clusters)
    assert report.differences[0].estimate == expected
    assert as_record(report)["differences"][0]["difference"]["value"] == pytest.approx(expected.value, abs=1e-6)


def test_a_base_alone_has_nothing_to_be_compared_with():
    (report,) = reports([pair_set([[2, 2]])], [scores("base", "base", [[1.0, 0.0]])])
    record = as_record(report)
    assert report.differences == [] and record["mean_response_tokens"] == {"chosen": 2.0, "rejected": 2.0}
    assert record["length_baselines"][0] == {"name": "longer wins", "pairs": 0, "equal": 1, "accuracy": None}
