"""A reward model of weights of its own drafts beside activated ones, and as one: no token changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import random_prompts, save_adapter
from fused_cases import LORA, build
from woken_cases import woken

from genarm import GuidedDecoder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
PROMPTS = random_prompts([5, 13, 1, 13, 7], seed=1)
PROMPTS[3] = PROMPTS[1]


@pytest.mark.parametrize("engine", ["auto", "hf"])
@pytest.mark.parametrize("slots", [8, 2])
@pytest.mark.parametrize("drafting", ["full", "ordinary", "activated"])
@pytest.mark.usefixtures("cpu_path")
def test_no_token_changes(drafting: str, slots: int, engine: Any, tmp_path: Path) -> None:
    """On the base an activated one; another of other weights, a whole model or an adapter on them, drafts."""
    base, own = build("llama"), build("qwen3", seed=7)
    rewards: dict[str, Any] = {"r0": woken(base, tmp_path / "r0", 4)[0], "r1": own}
    bases: dict[str, Any] = {}
    if drafting != "full":
        own.save_pretrained(tmp_path / "own")
        folder = tmp_path / "r1"
        rewards["r1"], bases["r1"] = folder, own
        if drafting == "ordinary":
            save_adapter(own, "qwen3", folder, seed=5, **LORA)
        else:
            woken(own, folder, 5)
    decoder = GuidedDecoder(base, rewards, reward_bases=bases, engine=engine, max_batch_size=slots)
    asked: dict[str, Any] = {
        "weights": {"r0": 1.0, "r1": 0.5}, "max_new_tokens": 14, "seed": 3, "eos_token_id": list(range(3, 9))
    }  # fmt: skip
    expected = decoder.generate(PROMPTS, **asked)
    found = decoder.generate(PROMPTS, speculate={"draft": "reward", "gamma": 3}, **asked)
    assert found.stats.drafted > found.stats.accepted > 0
    for row, other in zip(found.tokens, expected.tokens, strict=True):
        assert torch.equal(row, other)
