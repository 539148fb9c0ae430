"""An advantage per token through TRL's trainer: what the tokens behind it bring, where the policy drew them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from experiments import dense_rewards
from experiments.dense_rewards import DenseTrainer, ends, token_advantages, train
from genarm.embedded import BASE, REWARDS


def literal(rewards: list[list[float]], group: int) -> list[list[float]]:
    """The definition in loops, of answers without padding."""
    sums = []
    for start in range(0, len(rewards), group):
        tokens = [reward for answer in rewards[start : start + group] for reward in answer]
        mean = sum(tokens) / len(tokens)
        spread = (sum((one - mean) ** 2 for one in tokens) / len(tokens)) ** 0.5 + 1e-4
        for answer in rewards[start : start + group]:
            own = [(one - mean) / spread for one in answer]
            sums.append([sum(own[place:]) for place in range(len(own))])
    flat = [one for answer in sums for one in answer]
    scale = (sum(one * one for one in flat) / len(flat)) ** 0.5 + 1e-4
    return [[one / scale for one in answer] for answer in sums]


def test_an_advantage_is_what_the_token_and_those_behind_it_bring_beside_the_group() -> None:
    answers = [[-1.0, -3.0, 2.0], [0.5], [4.0, 4.0], [-2.0, 1.0, 7.0, 0.0]]
    mask = torch.tensor([[place < len(answer) for place in range(5)] for answer in answers]).long()
    rewards = torch.full((4, 5), 99.0)  # what stands behind an answer counts for nothing
    for row, answer in enumerate(answers):
        rewards[row, : len(answer)] = torch.tensor(answer)
    found = token_advantages(rewards, mask, 2)
    for row, expected in enumerate(literal(answers, 2)):
        torch.testing.assert_close(found[row, : len(expected)], torch.tensor(expected))
        assert not found[row, len(expected) :].any()
    assert not token_advantages(torch.full((4, 5), -7.0), mask, 2).any(), "nothing to learn where all are alike"


def test_trl_learns_by_advantages_of_the_tokens_that_the_reward_model_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[dict[str, Tensor]] = []
    compute = DenseTrainer._compute_loss

    def note(self: Any, model: Any, inputs: dict[str, Tensor]) -> Any:
        taken.append(dict(inputs))
        return compute(self, model, inputs)

    monkeypatch.setattr(DenseTrainer, "_compute_loss", note)
    monkeypatch.setattr(dense_rewards, "ANSWERS", 4)
    rows = train(is_dense=True, reward="art", steps=1, batch=4, new_tokens=5, seed=0)
    (batch,) = taken
    prompts, answers, mask = batch["prompt_ids"], batch["completion_ids"], batch["completion_mask"]
    arm = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32), REWARDS["art"])
    own = torch.zeros(mask.shape)
    for row in range(4):
        prompt, answer = prompts[row][batch["prompt_mask"][row].bool()], answers[row][mask[row].bool()]
        with torch.no_grad():
            logits = arm(torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1]
        own[row, : len(answer)] = logits.log_softmax(-1).gather(1, answer[:, None])[:, 0]
    torch.testing.assert_close(batch["advantages"], token_advantages(own, mask, 4), atol=1e-4, rtol=1e-4)
    means = (own.sum(1) / mask.sum(1)).mean()
    assert (
        rows[0]["reward"] == pytest.approx(float(means), abs=1e-4) and rows[0]["length"] == mask.sum(1).float().mean()
    )
    assert ends(rows)["first"] == ends(rows)["last"] == rows[0]
