"""What the literal implementations of decoding methods stand on: plain forward passes over whole texts, unbatched."""

from __future__ import annotations

from typing import Any

import torch
from families import VOCAB, make_model
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from genarm import GenerationOutput

STEPS = 6


def make_scorer(family: str, seed: int = 0, scale: float = 1.0, vocab: int = VOCAB) -> Any:
    """A trajectory RM of random weights: a sequence classifier of one label."""
    body = make_model(family, seed=seed, vocab=vocab)
    body.config.num_labels = 1
    scorer = AutoModelForSequenceClassification.from_config(body.config)
    setattr(scorer, scorer.base_model_prefix, getattr(body, body.base_model_prefix))
    torch.manual_seed(seed)
    nn.init.normal_(scorer.score.weight, std=scale)
    return scorer.eval()


@torch.no_grad()
def next_logits(model: Any, text: list[int]) -> Tensor:
    """[V] float32, what follows a text."""
    logits: Tensor = model(input_ids=torch.tensor([text])).logits[0, -1, :VOCAB]
    return logits.float()


@torch.no_grad()
def score_of(scorer: Any, text: list[int]) -> float:
    """The number a classifier gives to a whole text, at its last token."""
    hidden = getattr(scorer, scorer.base_model_prefix)(input_ids=torch.tensor([text])).last_hidden_state
    return float(scorer.score(hidden)[0, -1, 0])


def assert_same_rows(out: GenerationOutput, expected: list[list[int]]) -> None:
    assert [row.tolist() for row in out.tokens] == expected
    assert not out.errors
