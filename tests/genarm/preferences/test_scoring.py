"""A pair's rewards are its own, and log-probabilities without logits are those with them for every kind of head."""

import pytest
import torch
from families import make_model
from peft import LoraConfig, get_peft_model
from torch import nn
from training_cases import plain_log_probs, ragged_pairs
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForSequenceClassification,
)

import genarm_kernels
from genarm.preferences.collate import PairCollator
from genarm.preferences.scoring import pair_rewards, response_log_probs, sequence_scores, token_rewards

PAIRS = ragged_pairs(11, seed=3)
SIDES = ("chosen_ids", "rejected_ids")
BATCH = PairCollator(0)(ragged_pairs())


@torch.no_grad()
def one_by_one(model, prompt, response):
    """[n] log π of each token of one response, alone and unpadded."""
    logits = model(torch.tensor([[*prompt, *response]])).logits[0].double().log_softmax(-1)
    return torch.stack([logits[len(prompt) - 1 + place, token] for place, token in enumerate(response)])


def test_rewards_are_those_of_each_response_alone_whatever_the_batch_and_order():
    model = make_model("llama").double()
    expected = [[one_by_one(model, pair["prompt_ids"], pair[side]) for side in SIDES] for pair in PAIRS]
    sums = torch.tensor([[values.sum() for values in sides] for sides in expected], dtype=torch.float64)
    for batch_size in (1, 4, 64):
        rewards = pair_rewards(model, PAIRS, 0, batch_size)
        assert rewards.dtype == torch.float64 and rewards.shape == (len(PAIRS), 2)
        torch.testing.assert_close(rewards, sums, rtol=1e-6, atol=0)
        backwards = pair_rewards(model, PAIRS[::-1], 0, batch_size)
        torch.testing.assert_close(backwards.flip(0), rewards, rtol=1e-9, atol=0)
    for found, sides in zip(token_rewards(make_model("llama"), PAIRS, 0, batch_size=4), expected, strict=True):
        for values, alone in zip(found, sides, strict=True):
            assert values.dtype == torch.float32
            torch.testing.assert_close(values.double(), alone, rtol=0, atol=1e-4)
    assert pair_rewards(model, [], 0).shape == (0, 2) and token_rewards(model, [], 0) == []


@torch.no_grad()
def test_a_score_is_read_at_the_end_of_the_whole_sequence():
    base = make_model("llama")
    torch.manual_seed(0)
    scorer = LlamaForSequenceClassification(base.config).eval()
    scorer.model.load_state_dict(base.model.state_dict())
    scorer.config.pad_token_id = 0
    scorer.score = nn.Linear(32, 1, bias=False)
    for pair, row in zip(PAIRS, sequence_scores(scorer, PAIRS, 0, batch_size=4), strict=True):
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


def with_bias():
    model = make_model("llama")
    head = nn.Linear(32, 97)
    head.weight.data.copy_(model.lm_head.weight)
    model.lm_head = head
    return model


def with_lora(*targets, **options):
    torch.manual_seed(1)
    wrapped = get_peft_model(make_model("llama"), LoraConfig(r=2, target_modules=list(targets), **options))
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.2)
    return wrapped


def scaled(architecture, config, **change):
    torch.manual_seed(0)
    shape = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "initializer_range": 0.3}
    return architecture(config(**shape, **change)).eval()


PLAIN = {
    "llama": lambda: make_model("llama"),
    "gpt2": lambda: make_model("gpt2", tie=True),
    "bias": with_bias,
    "lora": lambda: with_lora("q_proj", "down_proj"),
}
CHANGED = {
    "softcap": lambda: scaled(Gemma2ForCausalLM, Gemma2Config, final_logit_softcapping=2.0),
    "cohere": lambda: scaled(CohereForCausalLM, CohereConfig, logit_scale=0.25),
    "granite": lambda: scaled(GraniteForCausalLM, GraniteConfig, logits_scaling=4.0),
    "lora on the head": lambda: with_lora("q_proj", "lm_head"),
    "head saved whole": lambda: with_lora("q_proj", modules_to_save=["lm_head"]),
}
HEADS = {**PLAIN, **CHANGED}


@pytest.fixture
def fused(monkeypatch):
    """One entry per call of token_logprobs."""
    calls, kernel = [], genarm_kernels.token_logprobs
    monkeypatch.setattr(genarm_kernels, "token_logprobs", lambda *given: calls.append(given) or kernel(*given))
    return calls


def values_and_grads(model, compute):
    model.zero_grad()
    values = compute(model)
    weights = torch.linspace(-1, 2, values.numel(), dtype=values.dtype).view_as(values)
    (values * weights).sum().backward()
    grads = {name: held.grad.clone() for name, held in model.named_parameters() if held.grad is not None}
    return values.detach(), grads


def by_logits(model):
    output = model(input_ids=BATCH["input_ids"], attention_mask=BATCH["attention_mask"])
    return plain_log_probs(output.logits, BATCH["labels"])


def by_head(model):
    return response_log_probs(model, BATCH)


@pytest.mark.parametrize("name", HEADS)
def test_values_and_gradients_are_those_of_the_logits_and_plain_heads_need_none(name, fused):
    model = HEADS[name]().double()
    expected, expected_grads = values_and_grads(model, by_logits)
    assert expected.abs().max() > 1
    forwards = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    for _ in range(2):
        values, grads = values_and_grads(model, by_head)
        assert values.dtype == torch.float64
        torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-12)
        assert grads.keys() == expected_grads.keys() and grads
        for key, grad in grads.items():
            torch.testing.assert_close(grad, expected_grads[key], rtol=1e-8, atol=1e-11)
    assert len(fused) == (2 if name in PLAIN else 0)
    if name in ("llama", "softcap"):  # what a head does is found out once
        assert len(forwards) == (2 if name in PLAIN else 3)


def test_a_head_that_others_have_replaced_is_left_alone(fused):
    model = make_model("llama")
    own = model.lm_head.forward
    model.lm_head.forward = lambda hidden: 2 * own(hidden)
    with torch.no_grad():
        torch.testing.assert_close(by_head(model), by_logits(model))
    assert not fused and "forward" in vars(model.lm_head)


@torch.no_grad()
def test_the_model_gives_logits_again_afterwards_and_after_a_failure():
    model = make_model("llama")
    before = by_logits(model)
    by_head(model)
    assert torch.equal(by_logits(model), before) and "forward" not in vars(model.lm_head)
    with pytest.raises(IndexError):
        response_log_probs(model, {**BATCH, "input_ids": BATCH["input_ids"] + 97})
    assert "forward" not in vars(model.lm_head)
    torch.testing.assert_close(by_head(model), before)


def test_gradient_checkpointing_changes_nothing(fused):
    model = make_model("llama").train()
    expected, expected_grads = values_and_grads(model, by_head)
    model.gradient_checkpointing_enable()
    values, grads = values_and_grads(model, by_head)
    torch.testing.assert_close(values, expected)
    for key, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[key])
    assert len(fused) == 2


@pytest.mark.parametrize("name", ["llama", "lora", "softcap"])
def test_autocast_multiplies_in_bfloat16_and_sums_in_float32(name, fused):
    model = HEADS[name]()
    with torch.autocast("cpu", torch.bfloat16):
        expected, expected_grads = values_and_grads(model, by_logits)
        values, grads = values_and_grads(model, by_head)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected, rtol=2e-2, atol=2e-2)
    assert grads.keys() == expected_grads.keys()
    largest = max(grad.abs().max() for grad in expected_grads.values())
    for key, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[key], rtol=0.05, atol=0.02 * float(largest))
    assert len(fused) == (name in PLAIN)


def test_a_wrapper_around_the_model_takes_part(fused):
    model, calls = make_model("llama"), []
    wrapper = nn.DataParallel(model)  # which passes no attributes on, as DistributedDataParallel does not
    wrapper.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        torch.testing.assert_close(response_log_probs(wrapper, BATCH, model), by_logits(model))
    assert len(calls) == len(fused) == 1
