"""On a GPU a transformers model's steps attend by the library's kernel: here the same path, interpreted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from sessions import decode

from genarm.models.causal import make_model as stream_model
from genarm.models.hf import attention
from genarm.models.hf.session import HFBackbone


@pytest.mark.parametrize(("family", "kernel"), [("llama", True), ("mistral", True), ("gpt2", True), ("gemma2", False)])
def test_steps_by_the_kernel_are_full_forward_passes(
    family: str, kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    own = attention.decode_attention

    def counted(query: Any, key: Any, *args: Any) -> Any:
        calls.append(key.shape[1])
        return own(query, key, *args)

    monkeypatch.setattr(attention, "decode_attention", counted)
    plain = make_model(family, seed=1)
    session = HFBackbone(stream_model("m", plain), 0).session(3, 24)
    rows = random_prompts([5, 12, 1], seed=1)
    (logits,) = session.prefill([rows])
    for token in range(5, 8):
        with torch.no_grad():
            expected = torch.stack([plain(input_ids=row[None]).logits[0, -1] for row in rows])
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
        (logits,) = decode(session, torch.full((3,), token))
        rows = [torch.cat([row, torch.tensor([token])]) for row in rows]
    assert len(calls) == (2 * 3 if kernel else 0)
