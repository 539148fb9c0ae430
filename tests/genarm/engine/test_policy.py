"""How many tokens are drafted ahead: fixed, by the number of rows, or by what paid lately."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from families import make_model, random_prompts

from genarm import GuidedDecoder
from genarm.engine.policy import PROBE, USUAL, Auto, make_policy


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
