"""Exact figures of problems that are known whole, each against a literal loop over answers, prefixes or draws; and
the same tables as models, against the tables themselves."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from chi_square import assert_drawn_from
from torch import Tensor

from genarm import GuidedDecoder
from genarm.errors import InvalidArgumentError
from genarm.evaluation import tabular_methods as methods
from genarm.evaluation.tabular import TabularProblem, answers, conditionals, guided, joint, kl, mean, numbers
from genarm.evaluation.tabular_models import TabularLM, lm_from_tables
from genarm.evaluation.tabular_problems import REWARDS, random_problem
from genarm_kernels import reference

V, T = 3, 3
PROMPT = [torch.tensor([2])]
ANSWERS = list(product(range(V), repeat=T))


@pytest.fixture(scope="module")
def problem() -> TabularProblem:
    return random_problem(V, T, beta=0.7, seed=5)


def prefix(tokens: tuple[int, ...]) -> int:
    return sum(token * V**place for place, token in enumerate(reversed(tokens)))


def base_of(problem: TabularProblem, tokens: tuple[int, ...], begin: int = 0) -> float:
    """π_base of tokens[begin:] behind tokens[:begin], one token after the other."""
    places = range(begin, len(tokens))
    return math.prod(math.exp(problem.base[t][prefix(tokens[:t]), tokens[t]]) for t in places)


def behind(problem: TabularProblem, start: tuple[int, ...]) -> list[tuple[float, float]]:
    """The answers that begin with ``start``: (π_base(answer | start), r(answer))."""
    ends = product(range(V), repeat=T - len(start))
    whole = [start + end for end in ends]
    return [(base_of(problem, one, len(start)), float(problem.rewards[prefix(one)])) for one in whole]


def by_tokens(choose, problem: TabularProblem) -> Tensor:
    """[V^T] probabilities of a method that draws its next token from ``choose(prefix)``, a list of V probabilities."""
    return torch.tensor(
        [math.prod(choose(answer[:t])[answer[t]] for t in range(T)) for answer in ANSWERS], dtype=torch.float64
    )


def softmax(scores: list[float]) -> list[float]:
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


def test_answers_are_numbered_as_prefixes_are():
    assert [tuple(row) for row in answers(V, T).tolist()] == ANSWERS
    assert numbers(answers(V, T), V).tolist() == [prefix(answer) for answer in ANSWERS] == list(range(V**T))


def test_the_optimum_the_value_and_the_expected_reward_are_their_definitions(problem):
    own = torch.tensor([base_of(problem, answer) for answer in ANSWERS], dtype=torch.float64)
    tilted = own * (problem.rewards / problem.beta).exp()
    assert torch.allclose(problem.base_joint.exp(), own)
    assert torch.allclose(problem.optimum.exp(), tilted / tilted.sum())
    for t in range(T + 1):
        for start in product(range(V), repeat=t):
            ends = behind(problem, start)
            value = math.log(sum(p * math.exp(r / problem.beta) for p, r in ends))
            assert float(problem.values[t][prefix(start)]) == pytest.approx(value)
            assert float(problem.expected_rewards[t][prefix(start)]) == pytest.approx(sum(p * r for p, r in ends))


def test_a_joint_distribution_comes_back_from_its_tables():
    log_joint = random_problem(V, T, 1.0, seed=3).rewards.log_softmax(0)
    assert torch.allclose(joint(conditionals(log_joint + 2.0, V)), log_joint)
    certain = torch.full_like(log_joint, -math.inf).index_fill_(0, torch.tensor([7]), 0.0)
    assert joint(conditionals(certain, V)).exp().tolist() == certain.exp().tolist()


def test_the_divergence_is_the_sum_and_keeps_what_cancels(problem):
    p, q = problem.optimum, problem.base_joint
    assert kl(p, q) == pytest.approx(float((p.exp() * (p - q)).sum()))
    one = torch.full_like(p, -math.inf).index_fill_(0, torch.tensor([7]), 0.0)
    assert kl(one, p) == pytest.approx(-float(p[7])) and kl(p, one) == math.inf
    near = (p + 1e-8 * torch.randn(V**T, dtype=torch.float64)).log_softmax(0)
    spread = mean(p, (near - p) ** 2) / 2
    assert kl(p, p) == 0 and kl(near, p) == pytest.approx(spread, rel=1e-2) and spread < 1e-15


def test_guided_tables_are_the_oracles(problem):
    other = methods.bradley_terry_optimum(problem, 0.5)
    for table, *rows in zip(guided([problem.base, other], [1.0, -0.5]), problem.base, other, strict=True):
        oracle = reference.guided_log_probs([row.float() for row in rows], [1.0, -0.5])
        assert torch.allclose(table.float(), oracle, atol=1e-6)


def test_the_best_of_n_is_that_of_all_tuples_of_draws():
    problem = random_problem(2, 2, 1.0, seed=1)
    problem = TabularProblem(problem.base, torch.tensor([1.0, 3.0, 3.0, -2.0], dtype=torch.float64), 1.0)
    own, expected = problem.base_joint.exp().tolist(), torch.zeros(4, dtype=torch.float64)
    for draws in product(range(4), repeat=3):
        best = max(draws, key=lambda answer: float(problem.rewards[answer]))  # the first of equal ones
        expected[best] += math.prod(own[answer] for answer in draws)
    assert torch.allclose(methods.best_of(problem, 3).exp(), expected)
    assert torch.allclose(methods.best_of(problem, 1), problem.base_joint)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_args_chooses_among_the_likeliest_by_expected_rewards(problem, temperature):
    def choose(start: tuple[int, ...]) -> list[float]:
        logits = [math.log(base_of(problem, (*start, v), len(start))) for v in range(V)]
        kept = sorted(range(V), key=lambda v: -logits[v])[:2]
        scores = [logits[v] + 1.5 * sum(p * r for p, r in behind(problem, (*start, v))) for v in range(V)]
        if temperature == 0:
            best = max(kept, key=scores.__getitem__)
            return [float(v == best) for v in range(V)]
        return softmax([scores[v] / temperature if v in kept else -1e9 for v in range(V)])

    found = methods.args(problem, 1.5, top_k=2, temperature=temperature)
    assert torch.allclose(found.exp(), by_tokens(choose, problem))


def test_transfer_q_chooses_by_the_reward_of_a_greedy_roll_out(problem):
    def roll_out(start: tuple[int, ...]) -> float:
        while len(start) < T:
            start = (*start, max(range(V), key=lambda v: base_of(problem, (*start, v))))
        return float(problem.rewards[prefix(start)])

    def choose(start: tuple[int, ...]) -> list[float]:
        own = [math.log(base_of(problem, (*start, v), len(start))) for v in range(V)]
        return softmax([own[v] + roll_out((*start, v)) / problem.beta for v in range(V)])

    assert torch.allclose(methods.transfer_q(problem).exp(), by_tokens(choose, problem))


@pytest.mark.parametrize("kind", REWARDS)
def test_rewards_of_every_kind_have_one_scale_and_come_from_their_seed(kind):
    one, same, other = (random_problem(4, 3, 1.0, kind, seed=seed) for seed in (0, 0, 1))
    assert float(one.rewards.std(correction=0)) == pytest.approx(1) and float(one.rewards.mean()) == pytest.approx(0)
    assert torch.equal(one.rewards, same.rewards) and not torch.equal(one.rewards, other.rewards)
    assert random_problem(4, 3, 1.0, kind, base="uniform").base_joint.exp().tolist() == pytest.approx([1 / 64] * 64)


def test_an_additive_reward_is_a_sum_over_places_and_the_others_are_not():
    def interaction(kind: str) -> float:
        """Of the first token with the last: 0 in a sum over places."""
        r = random_problem(3, 3, 1.0, kind, seed=2).rewards.view(3, 3, 3)[:, 0]
        return float((r - r.mean(0) - r.mean(1, keepdim=True) + r.mean()).abs().max())

    assert interaction("additive") < 1e-12 < interaction("random")
    assert interaction("adjacent") < 1e-12  # of neighbours only


def test_what_does_not_belong_together_is_refused(problem):
    with pytest.raises(InvalidArgumentError, match="beta is 0"):
        TabularProblem(problem.base, problem.rewards, 0.0)
    with pytest.raises(InvalidArgumentError, match=r"26\] rewards: expected T tables"):
        TabularProblem(problem.base, problem.rewards[1:], 1.0)
    with pytest.raises(InvalidArgumentError, match="reward is 'bad': expected one of random"):
        random_problem(V, T, 1.0, "bad")


def test_a_decoder_on_tables_scores_and_draws_what_the_tables_say(problem):
    arm = methods.bradley_terry_optimum(problem, 0.5)
    decoder = GuidedDecoder(lm_from_tables(problem.base), {"r": lm_from_tables(arm)}, max_batch_size=2000)
    exact = methods.genarm(problem, arm, 0.5 / 0.7)
    scores = decoder.score(PROMPT, answers(V, T), beta=0.7 / 0.5)
    assert torch.allclose(scores.totals, exact, atol=1e-5)
    assert torch.allclose(scores.model_totals, torch.stack([problem.base_joint, joint(arm)], 1), atol=1e-5)
    out = decoder.generate(PROMPT, num_return_sequences=2000, max_new_tokens=T, eos_token_id=[], beta=0.7 / 0.5)
    assert_drawn_from(numbers(torch.stack(out.tokens), V), exact.exp())


def test_a_table_is_read_behind_padding_and_behind_a_cache_alike(problem):
    model = lm_from_tables(problem.base, torch.float64)
    whole = model(torch.tensor([[2, 0, 2]])).logits
    assert torch.allclose(whole[0, 1], problem.base[1][0]) and torch.allclose(whole[0, 2], problem.base[2][2])
    padded = model(torch.tensor([[0, 0, 2, 0, 2]]), attention_mask=torch.tensor([[0, 0, 1, 1, 1]])).logits
    assert torch.equal(padded[:, 2:], whole)
    first = model(torch.tensor([[2, 0]]), use_cache=True)
    assert torch.equal(model(torch.tensor([[2]]), past_key_values=first.past_key_values).logits, whole[:, 2:])


def test_a_saved_table_is_the_same_model(problem, tmp_path):
    lm_from_tables(problem.base).save_pretrained(tmp_path)
    loaded = GuidedDecoder(TabularLM.from_pretrained(tmp_path))
    assert torch.allclose(loaded.score(PROMPT, answers(V, T)).totals, problem.base_joint, atol=1e-5)
