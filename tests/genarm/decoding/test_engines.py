"""The engines are one decoder: the same tokens from the fused decoder and from transformers' forward passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_model, random_prompts, save_adapter

from genarm import GuidedDecoder


@pytest.mark.parametrize(
    ("family", "temperature"), [("llama", 0.9), ("mistral", 0.0), ("qwen2", 0.9), ("qwen3", 0.0), ("gemma3", 0.9)]
)
def test_every_engine_draws_the_same_tokens_and_says_what_ran(family: str, temperature: float, tmp_path: Path) -> None:
    base, other = make_model(family, seed=1), make_model("qwen2", seed=3, hidden=16)
    folder = save_adapter(base, family, tmp_path / "a", seed=4)
    options: dict[str, Any] = {"weights": [0.8, -0.4], "temperature": temperature, "seed": 5, "max_new_tokens": 12}
    outs = {}
    for engine in ("auto", "eager", "hf"):
        decoder = GuidedDecoder(base, [folder, other], engine=engine)  # type: ignore[arg-type]
        outs[engine] = decoder.generate(random_prompts([6, 13, 1], seed=1), **options)
    fused = "hf+fused" if family == "gemma3" else "fused"
    assert [out.stats.engine for out in outs.values()] == [fused, fused, "hf"]
    assert all(torch.equal(out.sequences, outs["auto"].sequences) for out in outs.values())
