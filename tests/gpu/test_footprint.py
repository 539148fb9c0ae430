"""What a pass over prompts takes on a GPU is what was reckoned with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import random_prompts
from transformers import LlamaConfig, LlamaForCausalLM

from genarm import GuidedDecoder

pytestmark = pytest.mark.device


@pytest.mark.parametrize("engine", ["eager", "hf"])
def test_a_pass_takes_what_was_said(engine: Any) -> None:
    """Two layers of an 8B Llama, 8,192 tokens of prompts."""
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=2, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=97, max_position_embeddings=4096, dtype=torch.bfloat16,
    )  # fmt: skip
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    backbone = GuidedDecoder(model, engine=engine).engine.backbones[0]
    prompts = [[row.cuda() for row in random_prompts([2048] * 4)]]
    session = backbone.session(4, 2100)
    session.prefill(prompts)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    session.prefill(prompts)
    taken = torch.cuda.max_memory_allocated() - before
    assert 0.75 * taken < backbone.prompt_bytes(4, 2048) < 1.5 * taken
