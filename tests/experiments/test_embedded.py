"""The making of the embedded models, run small: what is saved loads again, and its figures are kept."""

import gzip
import json
import random

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from experiments.embedded.figures import classifier_figures, fit_classifier, longer_wins, rounded, text_figures
from experiments.embedded.models import (
    arm_arguments,
    base_arguments,
    beginning_as_prompt,
    encode_statements,
    load_arm,
    load_base,
    loss_per_token,
    train_arm,
    train_base,
    train_tokenizer,
)
from genarm.embedded import BASE
from genarm.models.activation import Activation
from genarm.models.adapters import read_adapter
from genarm.models.asleep import SleepingAdapter
from genarm.preferences.encoding import encode_pairs
from genarm.preferences.pairs import PreferencePair
from genarm.preferences.scoring import pair_rewards
from genarm.preferences.statistics import wilson

SUBJECTS = ["painting", "physics", "music", "helping others", "sports", "saving money", "poetry", "a safe bet"]
VERBS = ["enjoy", "dislike", "think about", "talk about", "care for", "avoid"]


def statements(count: int) -> list[str]:
    draw = random.Random(0)
    return [f"I {draw.choice(VERBS)} {draw.choice(SUBJECTS)} {draw.randrange(count)} times" for _ in range(count)]


def test_a_base_and_a_reward_model_are_trained_saved_and_loaded_again(tmp_path):
    texts = statements(96)
    tokenizer = train_tokenizer(texts, tmp_path / "base")
    settings = base_arguments(tmp_path / "work", seed=0, epochs=1)
    settings.disable_tqdm = True
    train_base(tokenizer, texts, texts[:16], tmp_path / "base", settings)
    base = load_base(tmp_path / "base")
    loss = loss_per_token(base, encode_statements(tokenizer, texts[:16]), tokenizer.pad_token_id)
    assert 0 < loss < 10 and base.config.use_cache

    pairs = [PreferencePair("", f"I enjoy painting {n}", f"I enjoy sports {n}") for n in range(32)]
    settings = arm_arguments(tmp_path / "work", seed=0, epochs=3)
    settings.disable_tqdm = True
    train_arm(tmp_path / "base", tokenizer, pairs, tmp_path / "art", settings)
    assert sorted(path.name for path in (tmp_path / "art").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    arm = load_arm(tmp_path / "base", tmp_path / "art")
    ids = torch.tensor([[0, 40, 50, 60]])
    assert not torch.equal(arm(ids).logits, base(ids).logits)


def test_what_both_statements_begin_with_is_the_prompt_that_an_activated_reward_model_sleeps_on(tmp_path):
    pair = {"prompt_ids": [0], "chosen_ids": [40, 50, 60, 1], "rejected_ids": [40, 50, 1]}
    assert beginning_as_prompt(pair) == {"prompt_ids": [0, 40, 50], "chosen_ids": [60, 1], "rejected_ids": [1]}
    pair = {"prompt_ids": [0], "chosen_ids": [40, 1], "rejected_ids": [41, 1]}
    assert beginning_as_prompt(pair) == pair
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    settings = arm_arguments(tmp_path / "work", seed=0, epochs=3)
    settings.disable_tqdm = True
    pairs = [PreferencePair("", f"I enjoy painting {n}", f"I enjoy sports {n}") for n in range(32)]
    train_arm(BASE, tokenizer, pairs, tmp_path / "art", settings, Activation())
    assert read_adapter(tmp_path / "art").activation == Activation()
    arm, base = load_arm(BASE, tmp_path / "art"), load_base(BASE)
    asleep = SleepingAdapter(arm, Activation())
    encoded = [beginning_as_prompt(pair) for pair in encode_pairs(tokenizer, pairs).pairs]
    rewards = pair_rewards(arm, encoded, tokenizer.pad_token_id, asleep=asleep)
    assert not torch.equal(rewards, pair_rewards(base, encoded, tokenizer.pad_token_id))


def test_the_loss_per_token_weighs_tokens_and_not_statements():
    tokenizer, base = AutoTokenizer.from_pretrained(BASE), load_base(BASE)
    items = encode_statements(tokenizer, ["I like art", "I enjoy helping other people whenever and wherever I can"])
    alone = [loss_per_token(base, [item], tokenizer.pad_token_id) for item in items]
    tokens = [len(item["input_ids"]) - 1 for item in items]
    expected = np.average(alone, weights=tokens)
    assert loss_per_token(base, items, tokenizer.pad_token_id) == pytest.approx(expected, abs=1e-4)


def test_figures_are_kept_to_four_digits():
    assert rounded(wilson(5, 10)) == {"share": 0.5, "low": 0.2366, "high": 0.7634}


def test_the_longer_wins_rule_leaves_equal_lengths_out():
    pairs = [PreferencePair("", *texts) for texts in (("aaaa", "b"), ("a", "bbb"), ("cc", "dddd"), ("ee", "ff"))]
    assert longer_wins(pairs)["share"] == round(1 / 3, 4)


class Words:
    """Stands for a tokenizer where the texts are their own tokens."""

    def batch_decode(self, tokens, skip_special_tokens):
        return tokens


def test_the_classifier_tells_its_objective_from_the_rest(tmp_path):
    rows = [
        {"statement": f"I {verb} {subject}", "persona": "interest-in-art", "matches": subject == "painting"}
        for verb in VERBS
        for subject in SUBJECTS
    ]
    path = tmp_path / "statements.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    classifier = fit_classifier(path, "interest-in-art")
    figures = classifier_figures(classifier, path, "interest-in-art")
    assert figures["positives"] == len(VERBS) and figures["recall"] == figures["precision"] == 1.0
    found = text_figures(
        classifier, Words(), ["I love painting", "I love painting", "I like sports", "I read good poetry"]
    )
    assert found["share"] == 0.5 and found["samples"] == 4 and found["distinct"] == 3
