"""Repetition, diversity and the intervals of a comparison, against literal definitions."""

from __future__ import annotations

import numpy as np
import pytest

from genarm.comparison.metrics import distinct_answers, diversity, repetition
from genarm.preferences.statistics import cluster_counts, mean, ratio

TEXT = "a b a b a b c"


def test_repetition_is_one_minus_distinct_over_all_runs_of_words() -> None:
    # six pairs, ab ba ab ba ab bc: three are distinct; five triples, aba bab aba bab abc: three; of the four runs of
    # four, abab baba abab babc, three
    assert repetition(TEXT, 2) == pytest.approx(1 - 3 / 6)
    assert repetition(TEXT, 3) == pytest.approx(1 - 3 / 5)
    assert repetition(TEXT, 4) == pytest.approx(1 - 3 / 4)


def test_diversity_is_the_product_over_two_to_four_words() -> None:
    assert diversity(TEXT) == pytest.approx(3 / 6 * 3 / 5 * 3 / 4)
    assert diversity("each word of this once") == 1.0
    assert diversity("no no no no no") == pytest.approx(1 / 4 * 1 / 3 * 1 / 2)


def test_a_text_too_short_to_repeat_anything_is_diverse() -> None:
    assert diversity("") == diversity("word") == 1.0


def test_an_answer_is_distinct_for_its_prompt() -> None:
    assert distinct_answers([("1", "yes"), ("2", "yes"), ("1", "yes"), ("1", "no")]) == pytest.approx(3 / 4)


def test_a_mean_s_interval_holds_the_truth_and_widens_where_seeds_go_together() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for trial in range(60):
        prompts = np.repeat(generator.normal(size=40), 3)  # three seeds of a prompt have one score
        found = mean(prompts, list(np.repeat(np.arange(40), 3)), draws=300, seed=trial)
        held += found.low <= 0.0 <= found.high
        assert found.value == pytest.approx(prompts.mean())
        alone = mean(prompts, draws=300, seed=trial)
        assert found.high - found.low > 1.3 * (alone.high - alone.low)
    assert held >= 51  # 57 expected; 1 in 100 sets of trials would have fewer than 51 at 92%


def test_a_ratio_is_of_sums_and_its_interval_of_resampled_sums() -> None:
    tops, bottoms, prompts = [4.0, 9.0, 1.0], [2, 3, 1], ["x", "y", "x"]
    found = ratio(tops, bottoms, prompts, draws=200)
    assert found.value == pytest.approx(14 / 6)
    assert (found.low, found.high) == (pytest.approx(5 / 3), pytest.approx(3.0))  # x alone, y alone
    counts = cluster_counts(3, prompts, draws=200)
    assert (counts[:, 0] == counts[:, 2]).all() and set(np.unique(counts)) == {0.0, 1.0, 2.0}
    with pytest.raises(ValueError, match="bottoms"):
        ratio([1.0], [0])
