"""The accuracy suite pairs its runs fairly, and its tables say what the runs say."""

import gzip
import json
from pathlib import Path

import pytest

from experiments.reward_accuracy.report import (
    complete,
    complete_seeds,
    draw,
    pooled,
    pooled_clusters,
    tables,
    time_ratio,
)
from experiments.reward_accuracy.runs import jobs
from experiments.reward_accuracy.suites import SUITES, Suite
from genarm.embedded import BASE
from genarm.training.checks import check


def run(method: str, objective: str, seed: int, right: str, seconds: float = 10.0) -> dict:
    found = {"method": method, "objective": objective, "seed": seed, "train_seconds": seconds, "right": right}
    return {**found, "right_by_mean": right} if method == "arm" else found


def result(runs: list[dict], objectives: tuple[str, ...] = ("x", "y")) -> dict:
    facts = {"pairs": 4, "chosen_tokens": [5, 5, 9, 2], "rejected_tokens": [5, 3, 4, 8], "clusters": [0, 0, 1, 2]}
    return {"suite": "made", "objectives": dict.fromkeys(objectives, facts), "runs": runs}


BOTH = [
    run("arm", "x", 0, "1101", 11.0),
    run("trajectory-rm", "x", 0, "1111"),
    run("trajectory-rm", "y", 0, "1000"),
    run("arm", "y", 0, "1110", 9.0),
]


def test_both_methods_get_the_same_pairs_steps_and_seeds_and_take_turns_at_going_first():
    suite = SUITES["persona"]
    planned = list(jobs(suite, Path("pairs.jsonl"), BASE, [0, 1, 2], {}))
    assert len(planned) == 2 * 3 * len(suite.objectives) and len(suite.objectives) >= 10
    pairs = list(zip(planned[::2], planned[1::2], strict=True))
    for first, second in pairs:
        assert {first.method, second.method} == {"arm", "trajectory-rm"}
        own = ("kind", "learning_rate")
        one, other = ({k: v for k, v in job.settings.identity().items() if k not in own} for job in (first, second))
        assert one == other
    starts = [first.method for first, _ in pairs]
    assert abs(starts.count("arm") - starts.count("trajectory-rm")) <= 1


def test_a_seed_counts_when_all_of_its_runs_are_there():
    assert complete_seeds(result(BOTH)) == [0]
    assert complete_seeds(result(BOTH[:3])) == []
    assert complete_seeds(result([*BOTH, run("arm", "x", 1, "0000")])) == [0]


def test_answers_are_pooled_in_one_order_with_clusters_that_span_seeds():
    other = [{**one, "seed": 1} for one in BOTH]
    both = result([*other, *BOTH])
    assert "".join(str(int(bit)) for bit in pooled(both, "arm", "right")) == "11011110" * 2
    assert "".join(str(int(bit)) for bit in pooled(both, "trajectory-rm", "right")) == "11111000" * 2
    clusters = pooled_clusters(both)
    assert len(clusters) == 16 and len(set(clusters)) == 6 and clusters[:8] == clusters[8:]


def test_the_time_ratio_is_that_of_runs_that_took_turns():
    assert time_ratio(result(BOTH)).startswith("1.00 (0.95–1.05")


def test_the_tables_hold_accuracy_difference_and_baselines(tmp_path):
    (tmp_path / "reward_accuracy_made.json").write_text(json.dumps(result(BOTH)))
    (tmp_path / "reward_accuracy_begun.json").write_text(json.dumps(result(BOTH[:1])))
    text = tables(complete(tmp_path))
    summary = next(line for line in text.splitlines() if line.startswith("| made"))
    cells = [cell.strip().split(" ")[0] for cell in summary.strip("|").split("|")]
    assert cells == ["made", "8", "75.0", "75.0", "62.5", "+12.5", "66.7", "33.3", "1.00"]
    assert "begun" not in text
    assert "| y | 4 | 75.0" in text


def test_the_picture_has_a_line_per_objective_and_one_for_all(tmp_path):
    draw([result(BOTH)], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_a_separator_stands_behind_every_prompt(tmp_path):
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    (tmp_path / "made.train.jsonl.gz").write_bytes(gzip.compress(json.dumps(rows[0]).encode()))
    suite = Suite("made", {}, {}, separator="\n\n")
    path = suite.write(tmp_path, "train", tmp_path)
    assert json.loads(path.read_text())["prompt"] == "a\n\n"


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_is_one_that_can_be_trained(name):
    for job in jobs(SUITES[name], Path("pairs.jsonl"), BASE, [0], {}):
        check(job.settings)
