"""Attention of prompts on a GPU, by torch and by flash-attn, against the oracle."""

import pytest
import torch
from attention_cases import Case, assert_agrees

from genarm.models.fused import attention as models
from genarm.models.fused.attention import Span, prefill_attention
from genarm_kernels import reference

pytestmark = pytest.mark.device
CUDA = "cuda"
SPANS = [Span(0, 0, 300), Span(1, 0, 300), Span(2, 50, 64), Span(3, 0, 17), Span(2, 114, 1)]


@pytest.mark.parametrize("window", [0, 33])
@pytest.mark.parametrize("flash", [True, False])
def test_prompts_agree_with_the_oracle(monkeypatch: pytest.MonkeyPatch, flash: bool, window: int) -> None:
    if flash and models.flash_attn() is None:
        pytest.skip("NOT RUN: flash-attn is not installed")
    if not flash:
        monkeypatch.setattr(models, "flash_attn", lambda: None)
    _, keys, values, _ = Case(4, 1, 8, 2, 64, 300).make([300, 300, 115, 17], torch.bfloat16, device=CUDA)
    query = torch.randn(sum(span.count for span in SPANS), 8, 64, device=CUDA, dtype=torch.bfloat16)
    ours = prefill_attention(query, keys, values, SPANS, 0.125, window)
    for span, tokens, part in zip(
        SPANS, *(x.split([span.count for span in SPANS]) for x in (query, ours)), strict=True
    ):
        row, stop = slice(span.row, span.row + 1), torch.tensor([span.stop])
        expected = reference.decode_attention(tokens[None], keys[row], values[row], stop, 0.125, window)
        torch.testing.assert_close(part[None].double(), expected, rtol=2e-2, atol=2e-2)


def test_flash_attn_decodes_the_same() -> None:
    if models.flash_attn() is None:
        pytest.skip("NOT RUN: flash-attn is not installed")
    for Q, window in ((1, 0), (3, 0), (1, 33), (3, 33)):
        inputs = Case(3, Q, 8, 2, 64, 200).make([200, 41, 0], torch.bfloat16, device=CUDA)
        ours = assert_agrees(*inputs, window=window)
        theirs = models.decode_attention(*inputs, window=window, backend="flash-attn")
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)
