"""Captured steps of reward models that sleep on the prompt, on a CPU by recording: the eager engine's results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from captured_cases import OPTIONS, PROMPTS, assert_same
from fused_cases import build
from recorded import record_on_cpu
from woken_cases import mixed

from genarm import GuidedDecoder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft.*")


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[GuidedDecoder, GuidedDecoder]:
    """A decoder whose steps are captured, and one whose steps are not."""
    record_on_cpu(monkeypatch)
    rewards, _ = mixed(build("llama"), 2, tmp_path, ordinary=1)
    return GuidedDecoder(build("llama"), rewards), GuidedDecoder(build("llama"), rewards, engine="eager")


def test_batches_and_prompts_of_all_sizes(pair: tuple[GuidedDecoder, GuidedDecoder]) -> None:
    """One capture serves prompts of any lengths, shared or not."""
    decoder, eager = pair
    long = torch.arange(3, 90).repeat(8)
    for prompts in (PROMPTS[:3], [PROMPTS[4]] * 4, PROMPTS[:1], [long, PROMPTS[0]], PROMPTS[:4]):
        found = decoder.generate(prompts, **OPTIONS)
        assert found.stats.engine == "fused (CUDA graphs)"
        assert_same(found, eager.generate(prompts, **OPTIONS))
    assert decoder.engine.captures == 4  # of 4 rows and of 1; the long prompt ended them; of 2, and of 4 again


@pytest.mark.parametrize(
    "options",
    [
        {"particles": 4, "resample_below": 1.0, "temperature": 0.3},
        {"speculate": {"draft": "ngram", "gamma": 3}, "repetition_penalty": 1.2},
        {"num_return_sequences": 3},
    ],
)
def test_what_rows_do_in_a_captured_step(pair: tuple[GuidedDecoder, GuidedDecoder], options: dict[str, Any]) -> None:
    decoder, eager = pair
    found = decoder.generate(PROMPTS[:3], **OPTIONS | options)
    assert "CUDA graphs" in found.stats.engine
    assert_same(found, eager.generate(PROMPTS[:3], **OPTIONS | options))


def test_rows_that_take_the_places_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_on_cpu(monkeypatch)
    rewards, _ = mixed(build("llama"), 1, tmp_path, ordinary=1)
    decoder = GuidedDecoder(build("llama"), rewards, max_batch_size=2)
    eager = GuidedDecoder(build("llama"), rewards, max_batch_size=2, engine="eager")
    assert_same(decoder.generate(PROMPTS, **OPTIONS), eager.generate(PROMPTS, **OPTIONS))
