"""The three statements of docs/ground-truth.md, small: what exists, what is learned, and what decoding token by token
costs."""

import json
import sys
from pathlib import Path

import pytest
import torch
from chi_square import assert_drawn_from

from experiments.ground_truth import __main__ as command
from experiments.ground_truth import decoding, drawing, existence, learning
from experiments.ground_truth.existence import oracle_tables
from experiments.ground_truth.learning import CountedPairs, draw_pairs, expected_pairs, train
from genarm.evaluation import tabular_methods as methods
from genarm.evaluation.tabular import joint, kl, numbers
from genarm.evaluation.tabular_problems import random_problem
from genarm.training.arm import arm_loss

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("weight", [1.0, 1.6])
def test_some_reward_model_decoded_is_the_optimum(weight):
    problem = random_problem(3, 3, beta=0.5, seed=1)
    found = existence.existence(problem, weight)
    assert len(found) == 3 + 2 * len({"vas", "search"}) and max(found.values()) < 1e-10
    assert max(divergence for way, divergence in found.items() if "in float64" in way) < 1e-20
    other = oracle_tables([problem.base, methods.existing(problem, weight)], [1.0, weight + 1e-3])
    assert kl(joint(other), problem.optimum) > 1e-8


def test_decoding_by_the_exact_value_is_the_optimum():
    problem = random_problem(3, 3, beta=0.5, seed=1)
    assert kl(methods.by_value(problem), problem.optimum) < 1e-20 < kl(methods.args(problem), problem.optimum)


@pytest.mark.parametrize("beta_r", [0.5, 2.0])
def test_enough_pairs_lead_to_the_exact_optimum(beta_r):
    problem = random_problem(3, 3, beta=1.0, seed=2)
    exact = methods.genarm(problem, methods.bradley_terry_optimum(problem, beta_r), beta_r)
    few, many, all_of_them = (
        kl(methods.genarm(problem, train(problem, pairs, beta_r), beta_r), exact)
        for pairs in (draw_pairs(problem, 1000, 0), draw_pairs(problem, 100_000, 0), expected_pairs(problem))
    )
    assert all_of_them < 1e-4 < many < 0.01 < few
    assert kl(exact, problem.optimum) > 0.03


def test_on_a_uniform_base_with_one_beta_the_same_run_reaches_the_optimum():
    problem = random_problem(3, 3, beta=0.7, base="uniform", seed=2)
    trained = train(problem, draw_pairs(problem, 50_000, 0), 0.7)
    assert kl(methods.genarm(problem, trained, 1.0), problem.optimum) < 0.01


def test_dpo_on_all_pairs_is_the_optimum():
    problem = random_problem(3, 3, beta=0.7, seed=2)
    assert kl(joint(train(problem, expected_pairs(problem), 0.7, problem.base_joint)), problem.optimum) < 1e-4


def test_counted_pairs_have_the_loss_of_all_of_them():
    scores = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pairs = CountedPairs(torch.tensor([0, 1, 3]), torch.tensor([1, 2, 0]), torch.tensor([3.0, 1.0, 2.0]).double())
    counted = arm_loss(scores[pairs.chosen], scores[pairs.rejected], 0.3, pairs.counts)
    every = pairs.counts.long()
    chosen, rejected = (side.repeat_interleave(every) for side in (pairs.chosen, pairs.rejected))
    plain = arm_loss(scores[chosen], scores[rejected], 0.3)
    assert torch.allclose(counted, plain)
    assert torch.allclose(*(torch.autograd.grad(loss, scores)[0] for loss in (counted, plain)))


def test_pairs_are_drawn_from_the_base_and_preferred_as_bradley_and_terry_say():
    problem, number = random_problem(2, 2, beta=1.0, seed=4), 50_000
    drawn, expected = draw_pairs(problem, number, 7), expected_pairs(problem)
    found = torch.zeros(4, 4, dtype=torch.float64).index_put((drawn.chosen, drawn.rejected), drawn.counts)
    shares = (expected.counts / expected.counts.sum()).view(4, 4)
    assert float(found.sum()) == number and bool((found.diagonal() == 0).all())
    # Drawn as (first, second), of which the second again where both are one, so the first is the base's own.
    own = problem.base_joint.exp()
    both = own[:, None] * own / (1 - own[:, None]) * (1 - torch.eye(4))
    chosen = (problem.rewards[:, None] - problem.rewards).sigmoid()
    exact = (both + both.T) * chosen
    assert torch.allclose(found / number, exact, atol=4 * (0.25 / number) ** 0.5)
    assert torch.allclose(shares / (shares + shares.T), chosen, equal_nan=True) or bool(shares.diagonal().eq(0).all())


def test_decoding_the_exact_optimum_is_the_optimum_on_a_uniform_base_alone():
    uniform, other = (random_problem(4, 3, 0.5, base=base, seed=3) for base in ("uniform", "random"))
    decoded = [methods.genarm(one, methods.bradley_terry_optimum(one, 0.5), 1.0) for one in (uniform, other)]
    assert kl(decoded[0], uniform.optimum) < 1e-20 and kl(decoded[1], other.optimum) > 0.03
    other_beta = methods.genarm(uniform, methods.bradley_terry_optimum(uniform, 4.0), 8.0)
    assert kl(other_beta, uniform.optimum) > 0.03


def test_the_exact_optimum_looks_ahead_as_if_the_base_were_uniform():
    uniform, additive = random_problem(4, 3, 0.5, base="uniform"), random_problem(4, 3, 0.5, "additive")
    by_arm = methods.genarm(uniform, methods.bradley_terry_optimum(uniform, 1e6), 2e6)
    assert kl(by_arm, methods.args(uniform)) < 1e-9  # its look ahead becomes the mean reward, which ARGS is given
    decoded = [methods.genarm(additive, methods.bradley_terry_optimum(additive, b), b / 0.5) for b in (0.25, 64.0)]
    assert kl(*decoded) < 1e-20  # of an additive reward it needs none


def test_the_methods_own_code_draws_what_is_known_exactly():
    problem = random_problem(3, 2, beta=0.7, seed=6)
    known = [case for case in drawing.cases(problem) if case.known is not None]
    assert {case.method for case in known} == {"base", "genarm", "best_of_n", "args", "transfer_q", "vas", "search"}
    for case in known:
        out = drawing.draw(problem, case, draws=150, seed=1)
        assert_drawn_from(numbers(torch.stack(out.tokens), 3), case.known.exp())


def test_the_command_measures_every_part_and_keeps_it(monkeypatch):
    monkeypatch.setattr(decoding, "SHAPES", ((8, 2), (4, 3)))
    monkeypatch.setattr(existence, "LENGTH", 2)
    monkeypatch.setattr(drawing, "LENGTH", 2)
    monkeypatch.setattr(drawing, "DRAWS", 20)
    monkeypatch.setattr(learning, "NUMBERS", (1000, None))
    monkeypatch.setattr(learning, "RUNS", (("uniform", 1.0, (1.0,)),))
    monkeypatch.setattr(learning, "ITERATIONS", 20)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    result = command.measure([0])
    assert json.loads(command.as_json(result)) == result
    assert {row["length"] for row in result["decoding"]} == {2, 3}
    assert len(result["learning"]) == 2 and max(result["existence"][0]["kl"].values()) < 1e-10


def test_the_page_has_the_figures_of_its_file(tmp_path, monkeypatch, capsys):
    file = DOCS / "ground-truth.json"
    monkeypatch.setattr(sys, "argv", ["ground_truth", "--table", str(file), "--picture", str(tmp_path / "plot.png")])
    assert command.main() == 0
    assert all(one.stat().st_size > 10_000 for one in (tmp_path / "plot.png", DOCS / "ground-truth.png"))
    page, printed = (DOCS / "ground-truth.md").read_text(encoding="utf-8"), capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(lines) > 60 and [line for line in lines if line not in page] == []
