"""Prompts that are read and held once for all rows that begin with them: sessions of activated adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import random_prompts
from fused_cases import VARIETIES, build, untouched
from woken_cases import assert_streams_are, mixed, woken

from genarm import GuidedDecoder

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning:peft.*"), pytest.mark.usefixtures("cpu_path")]
RAGGED = [5, 13, 1, 2]


@pytest.mark.parametrize("variety", VARIETIES)
def test_streams_are_their_literal_loops(variety: str, tmp_path: Path) -> None:
    base = build(variety)
    rewards, plain = mixed(base, 2, tmp_path, ordinary=1)
    assert_streams_are(GuidedDecoder(base, rewards), plain, [random_prompts(RAGGED, seed=1)] * 4)


def test_one_reward_model_and_prompts_of_its_own(tmp_path: Path) -> None:
    base = build("qwen2 with some windows")
    rewards, plain = mixed(base, 1, tmp_path)
    decoder = GuidedDecoder(base, rewards)
    assert_streams_are(decoder, plain, [random_prompts(RAGGED, seed=1), random_prompts([3, 13, 9, 1], seed=2)])


@pytest.mark.parametrize("ends", [[3, 3, 3], [3, 9, 5], [9, 9, 9]])
def test_adapters_that_wake_at_tokens(tmp_path: Path, ends: list[int]) -> None:
    """Beside one that wakes at the last token."""
    base = build("llama")
    (first, early), (second, late) = woken(base, tmp_path / "a", 4, (90, 91)), woken(base, tmp_path / "b", 5)
    rows = zip(random_prompts([4, 7, 1], seed=1), random_prompts([9, 9, 9], seed=2, vocab=80), ends, strict=True)
    prompts = [torch.cat([start, torch.tensor([90, 91]), rest[: end - 2]]) for start, rest, end in rows]
    decoder = GuidedDecoder(base, {"a": first, "b": second})
    assert_streams_are(decoder, [untouched(base), early, late], [prompts] * 3)
