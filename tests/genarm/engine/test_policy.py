"""How many tokens are drafted ahead: fixed, by the number of rows, or by what paid lately."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import make_model, random_prompts

from genarm import GenerationOutput, GuidedDecoder
from genarm.engine.policy import LOSS, PROBE, USUAL, Allowance, Auto, make_policy


def run(policy: Auto, right: int, cost: float, steps: int, proposes: bool = True) -> list[int]:
    """A row whose first ``right`` drafts of a step are right, where each draft costs a share of a plain step."""
    chosen = []
    for _ in range(steps):
        gamma = policy.gamma
        chosen.append(gamma)
        proposed = gamma if proposes else 0
        policy.note(gamma, proposed, min(right, proposed), 1 + cost * proposed)
    return chosen


def test_drafts_that_are_right_are_many() -> None:
    assert run(Auto(), 7, 0.05, 60)[-1] == 7


def test_drafts_that_are_wrong_cost_next_to_nothing() -> None:
    chosen = run(Auto(), 0, 0.3, 600)
    spent = sum(1 + 0.3 * gamma for gamma in chosen) / len(chosen)
    assert spent <= 1.03 and chosen[-PROBE:].count(0) >= PROBE - 1


def test_few_right_drafts_are_worth_few() -> None:
    assert run(Auto(), 1, 0.25, 100)[-1] in (0, 1)


def test_drafts_that_are_right_again_are_noticed() -> None:
    policy = Auto()
    assert run(policy, 0, 0.2, 100)[-1] == 0
    assert run(policy, 7, 0.05, 20 * PROBE)[-1] > 0


def test_nothing_proposed_teaches_nothing_of_drafts() -> None:
    policy = Auto()
    before = policy._right
    run(policy, 0, 0.0, 50, proposes=False)
    assert policy._right == before


@pytest.mark.parametrize("device", sorted(USUAL))
def test_the_usual_number_follows_the_rows_of_a_pass(device: str) -> None:
    decoder = GuidedDecoder(make_model("llama", seed=1))
    backbones: Any = decoder.engine.backbones

    def gamma(rows: int, streams: int = 1, speculate: Any = "ngram") -> int:
        request: Any = decoder.prepare(random_prompts([3] * rows, seed=1), speculate=speculate)
        asked = SimpleNamespace(
            row_ids=request.row_ids, speculate=request.speculate, device=SimpleNamespace(type=device)
        )
        return make_policy(asked, [SimpleNamespace(streams=range(streams)), *backbones]).gamma  # type: ignore[arg-type, list-item]

    before = 0
    for most, usual in USUAL[device]:
        assert gamma(before + 1) == gamma(most) == usual > 0
        assert gamma(1, streams=most) == usual, "streams of one backbone are rows too"
        before = most
    assert gamma(before + 1) == gamma(9) == 0, "more than eight rows draft nothing"
    assert gamma(9, speculate={"draft": "ngram", "gamma": 5}) == 5
    assert gamma(1, speculate=None) == 0


def test_a_call_that_follows_what_is_accepted_draws_the_same() -> None:
    decoder = GuidedDecoder(make_model("llama", seed=1), max_batch_size=2)
    prompts = random_prompts([5, 9, 4], seed=2)
    options: dict[str, Any] = {"max_new_tokens": 30, "seed": 4, "eos_token_id": []}
    plain = decoder.generate(prompts, **options)
    found = decoder.generate(prompts, speculate={"draft": decoder.models[0].module, "gamma": "auto"}, **options)
    assert [row.tolist() for row in found.tokens] == [row.tolist() for row in plain.tokens]
    assert 0 < found.stats.accepted <= found.stats.drafted and found.stats.mean_accepted > 1.5


def decode(right: list[int], extra: float, tokens: int) -> tuple[list[float], list[int]]:
    """Rows whose passes with drafts take so many right ones -> each row's time in plain steps over its tokens, if it
    paid for every pass that holds its drafts, and the passes that did."""
    allowance = Allowance(extra, LOSS)
    counts, spent, passes = [1] * len(right), [0.0] * len(right), [0] * len(right)
    while min(counts) < tokens:
        allowed = allowance.allowed(counts)
        allowance.note(allowed)
        counts = [count + 1 + of_row * one for count, of_row, one in zip(counts, right, allowed, strict=True)]
        spent = [one + 1 + extra * proposes for one, proposes in zip(spent, allowed, strict=True)]
        passes = [one + proposes for one, proposes in zip(passes, allowed, strict=True)]
    return [one / count for one, count in zip(spent, counts, strict=True)], passes


@pytest.mark.parametrize("extra", [0.1, 0.13, 0.65])
def test_drafts_that_are_wrong_cost_a_row_three_percent_at_most(extra: float) -> None:
    (wrong, right), passes = decode([0, 2], extra, 400)
    assert 1.0 < wrong <= 1 + LOSS and right < (1 + extra) / 3 + 0.05
    assert 5 <= passes[0] < 0.4 * 400  # it looks again now and then
    assert decode([0], extra, 400)[1] == decode([0, 0, 2], extra, 400)[1][:1]  # whatever is beside it


def test_another_row_in_a_place_has_an_allowance_of_its_own() -> None:
    allowance = Allowance(0.1, LOSS)
    assert allowance.allowed([3]) == [False] and allowance.allowed([4]) == [True]
    allowance.note([True])
    assert allowance.allowed([5]) == [False]
    assert allowance.allowed([4]) == [True]  # a text of another row, as long as that


def test_wrong_drafts_are_few_where_nobody_said_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws that are all but uniform over 24 ids: pairs recur again and again, and nothing follows from it."""
    monkeypatch.setattr("genarm.engine.policy.LOSS", 0.01)
    decoder = GuidedDecoder(make_model("llama", seed=1, vocab=24))
    options: Any = {"max_new_tokens": 300, "eos_token_id": [], "seed": 3, "temperature": 1000.0}
    prompt = torch.arange(3, 24)
    few = decoder.generate([prompt], speculate="ngram", **options)
    many = decoder.generate([prompt], speculate={"draft": "ngram", "gamma": 2}, **options)
    assert torch.equal(few.tokens[0], many.tokens[0])
    policy = make_policy(decoder.prepare([prompt], speculate="ngram"), decoder.engine.backbones)
    assert policy.gamma == 2 and policy.allowance is not None and policy.allowance.share == 0.01

    def loss(out: GenerationOutput) -> float:
        drafted, accepted, _verified = out.speculated[0].tolist()
        return drafted / policy.gamma * policy.allowance.extra - accepted

    assert 0 < loss(few) <= 0.01 * 300 < loss(many)
