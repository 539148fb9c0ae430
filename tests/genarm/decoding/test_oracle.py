"""Sampling, token for token, is a plain loop: each model alone on the whole sequence, and the float64 oracle's draw.

Random settings, all at once: weights, filters, penalties, biases, prompts of a stream's own, EOS ids, paddings.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, VOCAB, left_padded, make_model, random_prompts, right_padded, save_adapter, with_adapter
from torch import Tensor

import genarm_kernels
from genarm import GuidedDecoder

STEPS = 6
BATCH = 5
ON_TRANSFORMERS = {1, 5, 7}  # the Qwens, and one of two Llamas; GPT-2 and the Gemmas run nowhere else


def choose_settings(dice: random.Random, batch: int) -> dict[str, Any]:
    """One value a row for everything that can have one."""

    def rows(*choices: float) -> Tensor:
        return torch.tensor([float(dice.choice(choices)) for _ in range(batch)])

    bias = torch.tensor([[dice.gauss(0, 1) for _ in range(VOCAB)] for _ in range(batch)])
    bias[:, dice.sample(range(VOCAB), 20)] = -torch.inf
    return {
        "weights": torch.stack([rows(1.0, -0.7, 0.0, 2.5), rows(0.5, 0.0, -1.5)], dim=1),
        "beta": rows(0.5, 1.0, 2.0),
        "base_weight": rows(1.0, 0.4, -0.5, 0.0),
        "temperature": rows(0.0, 0.6, 1.0, 1.7),
        "top_k": rows(0, 1, 7, 40, 500).long(),
        "top_p": rows(1.0, 0.9, 0.3, 0.0),
        "min_p": rows(0.0, 0.05, 0.5, 1.0),
        "base_min_p": rows(0.0, 0.0, 0.01),
        "base_top_p": rows(1.0, 1.0, 0.95),
        "repetition_penalty": rows(1.0, 1.3, 0.7) if dice.random() < 0.6 else torch.ones(batch),
        "logit_bias": bias if dice.random() < 0.6 else torch.zeros(batch, VOCAB),
        "seed": torch.tensor([dice.getrandbits(63) for _ in range(batch)]),
    }


def plain_loop(
    models: list[Any], prompts: list[Tensor], settings: dict[str, Any], row: int, eos: list[int]
) -> tuple[list[int], list[float], list[list[float]]]:
    """One row: its tokens, their log-probabilities, and each model's own."""
    weights = torch.cat([settings["base_weight"][:, None], settings["weights"] / settings["beta"][:, None]], 1)[row]
    bias, penalty = settings["logit_bias"][row].double(), float(settings["repetition_penalty"][row])
    filters = {
        name: settings[name][row : row + 1]
        for name in ("temperature", "top_k", "top_p", "min_p", "base_min_p", "base_top_p", "seed")
    }
    tokens: list[int] = []
    logprobs: list[float] = []
    model_logprobs: list[list[float]] = []
    for step in range(STEPS):
        drawn = torch.tensor(tokens, dtype=torch.int64)
        with torch.no_grad():
            logits = [
                m(input_ids=torch.cat([p, drawn])[None]).logits[:, -1, :VOCAB]
                for m, p in zip(models, prompts, strict=True)
            ]
        scores = bias + sum(float(w) * z[0].double() for w, z in zip(weights, logits, strict=True))
        seen = torch.cat([prompts[0], drawn]).unique()
        penalised = scores.clone()
        penalised[seen] = torch.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
        change = torch.where(scores == -torch.inf, -torch.inf, penalised - scores + bias)
        sample = genarm_kernels.reference.guided_sample(
            logits, weights, bias=change.float(), position=len(prompts[0]) + step, return_logprobs=True, **filters
        )
        assert int(sample.status) == 0
        assert sample.logprobs is not None and sample.model_logprobs is not None
        tokens.append(int(sample.tokens))
        logprobs.append(float(sample.logprobs))
        model_logprobs.append(sample.model_logprobs[0].tolist())
        if tokens[-1] in eos:
            break
    return tokens, logprobs, model_logprobs


@pytest.mark.parametrize("case", range(8))
def test_sampling_equals_a_plain_loop_with_the_oracle(case: int, tmp_path: Path) -> None:
    dice = random.Random(case)
    family = FAMILIES[case % len(FAMILIES)]
    base = make_model(family, seed=case, tie=dice.random() < 0.5)
    folder = save_adapter(base, family, tmp_path, seed=case + 50)
    full = make_model(dice.choice(FAMILIES), seed=case + 100, hidden=16, vocab=dice.choice([VOCAB, 104, 128]))
    models = [base, with_adapter(base, folder), full]
    prompts = random_prompts([dice.randint(1, 14) for _ in range(BATCH)], seed=case)
    own = random_prompts([dice.randint(1, 14) for _ in range(BATCH)], seed=case + 1)
    streams = [prompts, *dice.choice([(prompts, own), (own, prompts), (own, own), (prompts, prompts)])]
    settings = choose_settings(dice, BATCH)
    eos = dice.choice([[], [2], list(range(3, 20))])
    call: Any = dice.choice([left_padded(prompts), right_padded(prompts), (prompts,)])
    engine: Any = "hf" if case in ON_TRANSFORMERS else "auto"
    rewards: dict[str, Any] = {"lora": folder, "full": full}
    decoder = GuidedDecoder(base, rewards, max_batch_size=dice.choice([2, 8]), engine=engine)
    reward_prompts = {"lora": streams[1], "full": streams[2]}
    common: dict[str, Any] = {"max_new_tokens": STEPS, "eos_token_id": eos, "return_logprobs": True, **settings}
    out = decoder.generate(*call, reward_prompts=reward_prompts, **common)
    assert not out.errors
    assert out.logprobs is not None and out.model_logprobs is not None
    assert out.logprobs.dtype == out.model_logprobs.dtype == torch.float32
    assert out.model_logprobs.shape == (*out.logprobs.shape, 3)
    assert out.stats.prompt_tokens == sum(map(len, prompts)), "of the base alone, whatever the chunks"
    assert out.stats.new_tokens == sum(map(len, out.tokens))
    for row in range(BATCH):
        tokens, logprobs, model_logprobs = plain_loop(models, [rows[row] for rows in streams], settings, row, eos)
        assert out.tokens[row].tolist() == tokens, f"row {row}"
        count = len(tokens)
        torch.testing.assert_close(out.logprobs[row, :count], torch.tensor(logprobs), atol=2e-4, rtol=1e-5)
        torch.testing.assert_close(out.model_logprobs[row, :count], torch.tensor(model_logprobs), atol=2e-4, rtol=1e-5)
