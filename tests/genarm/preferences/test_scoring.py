"""A pair's rewards are its own: no batch, order or mode of the model changes them."""

import pytest
import torch
from families import make_model
from training_cases import ragged_pairs
from transformers import LlamaForSequenceClassification

from genarm.preferences.scoring import pair_rewards, sequence_scores, token_rewards

PAIRS = ragged_pairs(11, seed=3)
SIDES = ("chosen_ids", "rejected_ids")


def one_by_one(model, prompt, response):
    """[n] log π of each token of one response, alone and unpadded."""
    logits = model(torch.tensor([[*prompt, *response]])).logits[0].double().log_softmax(-1)
    return torch.stack([logits[len(prompt) - 1 + place, token] for place, token in enumerate(response)])


@torch.no_grad()
def test_token_rewards_are_those_of_each_response_alone():
    model = make_model("llama")
    found = token_rewards(model, PAIRS, 0, batch_size=4)
    assert len(found) == len(PAIRS)
    for pair, rewards in zip(PAIRS, found, strict=True):
        for side, values in zip(SIDES, rewards, strict=True):
            assert values.dtype == torch.float32 and len(values) == len(pair[side])
            expected = one_by_one(model, pair["prompt_ids"], pair[side])
            torch.testing.assert_close(values.double(), expected, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_a_reward_is_the_sum_over_the_response_whatever_the_batch(batch_size):
    model = make_model("llama").double()
    rewards = pair_rewards(model, PAIRS, 0, batch_size)
    expected = [[one_by_one(model, pair["prompt_ids"], pair[side]).sum() for side in SIDES] for pair in PAIRS]
    assert rewards.dtype == torch.float64 and rewards.shape == (len(PAIRS), 2)
    torch.testing.assert_close(rewards, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)
    backwards = pair_rewards(model, PAIRS[::-1], 0, batch_size)
    torch.testing.assert_close(backwards.flip(0), rewards, rtol=1e-9, atol=0)


@torch.no_grad()
def test_a_score_is_read_at_the_end_of_the_whole_sequence():
    base = make_model("llama")
    torch.manual_seed(0)
    scorer = LlamaForSequenceClassification(base.config).eval()
    scorer.model.load_state_dict(base.model.state_dict())
    scorer.config.pad_token_id = 0
    scorer.score = torch.nn.Linear(32, 1, bias=False)
    scores = sequence_scores(scorer, PAIRS, 0, batch_size=4)
    for pair, row in zip(PAIRS, scores, strict=True):
        for side, score in zip(SIDES, row, strict=True):
            hidden = scorer.model(torch.tensor([[*pair["prompt_ids"], *pair[side]]])).last_hidden_state[0, -1]
            assert float(score) == pytest.approx(float(scorer.score(hidden)), abs=1e-4)


def test_scoring_leaves_every_module_in_its_mode_and_counts_in_eval_mode():
    model = make_model("llama")
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    expected = pair_rewards(model, PAIRS, 0)
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    assert torch.equal(pair_rewards(model, PAIRS, 0), expected)
    assert [module.training for module in model.modules()] == modes


def test_no_pairs_have_no_rewards():
    assert pair_rewards(make_model("llama"), [], 0).shape == (0, 2)
    assert token_rewards(make_model("llama"), [], 0) == []
