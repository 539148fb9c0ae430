"""Calls of captured steps, and what makes two outputs the same."""

from __future__ import annotations

from typing import Any

import torch
from families import random_prompts

from genarm import GenerationOutput

PROMPTS = random_prompts([6, 11, 3, 1, 17, 4, 9, 2, 5], seed=1)
EOS = list(range(3, 15))
OPTIONS: dict[str, Any] = {"max_new_tokens": 7, "seed": 3, "return_logprobs": True, "eos_token_id": EOS}


def assert_same(found: GenerationOutput, expected: GenerationOutput) -> None:
    assert torch.equal(found.sequences, expected.sequences)
    assert found.finish_reasons == expected.finish_reasons
    assert {row: str(error) for row, error in found.errors.items()} == {
        row: str(error) for row, error in expected.errors.items()
    }
    for ours, theirs in (found.logprobs, expected.logprobs), (found.model_logprobs, expected.model_logprobs):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5, equal_nan=True)
    assert (found.guided is None) == (expected.guided is None)
    if found.guided is not None and expected.guided is not None:
        assert torch.equal(found.guided, expected.guided)
