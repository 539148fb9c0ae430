"""decode_attention on a GPU: the oracle, real sizes, one result whatever the batch, captured graphs; prompts too."""

import attention_cases as cases
import pytest
import torch
from attention_cases import ORDERS, TOLERANCE, Case, assert_agrees, same_bits

from genarm.models.fused import attention as models
from genarm.models.fused.attention import Span, prefill_attention
from genarm_kernels import decode_attention, reference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT RUN: this machine has no CUDA device")
CUDA = "cuda"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("D", [1, 8, 16, 32, 64, 80, 96, 128, 256])
def test_heads_of_any_size_agree_with_the_oracle(D: int, dtype: torch.dtype) -> None:
    for Q, order in zip((1, 3, 8), ORDERS, strict=True):
        assert_agrees(*Case(2, Q, 8, 2, D, 90).make([90, 33], dtype, order, CUDA))


@pytest.mark.parametrize("window", [0, 40])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_rows_have_any_length(dtype: torch.dtype, window: int) -> None:
    cases.check_lengths(dtype, CUDA, window)


def test_splits_windows_heads_and_tokens() -> None:
    cases.check_many_splits(CUDA)
    cases.check_windows(CUDA)
    cases.check_heads_and_tokens_keep_their_places(CUDA)
    assert_agrees(*Case(1, 8, 40, 1, 128, 300).make([290], torch.bfloat16, device=CUDA))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_row_does_not_depend_on_its_batch(dtype: torch.dtype) -> None:
    cases.check_a_row_does_not_depend_on_its_batch(dtype, CUDA)


@pytest.mark.parametrize("window", [0, 4096])
def test_an_8b_model_s_rows_are_the_same_in_any_batch(window: int) -> None:
    case, lengths = Case(16, 1, 32, 8, 128, 32768), [32768, 16384, 4097, 4096, 1025, 1024, 65, 64, 1, 0] + [20000] * 6
    inputs = case.make(lengths, torch.bfloat16, device=CUDA)
    whole = decode_attention(*inputs, window=window)
    for row in (0, 2, 5, 9, 15):
        alone = [x[row : row + 1] for x in inputs]
        assert same_bits(decode_attention(*alone, window=window), whole[row : row + 1])
        expected = reference.decode_attention(*alone, window=window)
        torch.testing.assert_close(whole[row : row + 1].double(), expected, rtol=2e-2, atol=2e-2)


def test_rows_beyond_2_to_the_31_elements_are_reached() -> None:
    # Two caches of 4.3 GB; the last row's elements have numbers above 2³¹.
    R, T, H_kv, D = 17, 131072, 8, 128
    keys, values = (torch.zeros(R, H_kv, T, D, dtype=torch.bfloat16, device=CUDA) for _ in range(2))
    keys[-1, :, -40:].normal_()
    values[-1, :, -40:].normal_()
    lengths = torch.zeros(R, dtype=torch.int32, device=CUDA)
    lengths[-1] = T
    query = torch.randn(R, 1, 32, D, dtype=torch.bfloat16, device=CUDA)
    ours = decode_attention(query, keys.transpose(1, 2), values.transpose(1, 2), lengths, 1.0, 40)
    row = [x.transpose(1, 2)[-1:, -40:] for x in (keys, values)]
    expected = reference.decode_attention(query[-1:], *row, torch.tensor([40], device=CUDA), 1.0)
    torch.testing.assert_close(ours[-1:].double(), expected, rtol=2e-2, atol=2e-2)
    assert not ours[:-1].any()


def test_a_replayed_graph_follows_lengths_and_caches() -> None:
    query, keys, values, lengths = Case(3, 2, 8, 2, 64, 2000).make([2000] * 3, torch.bfloat16, device=CUDA)
    decode_attention(query, keys, values, lengths)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = decode_attention(query, keys, values, lengths)
    for turn, now in enumerate(([2000, 1, 0], [5, 1100, 64], [1024, 1025, 2])):
        lengths.copy_(torch.tensor(now))
        keys.normal_()
        query.copy_(torch.randn_like(query) * (turn + 1))
        graph.replay()
        assert same_bits(out, assert_agrees(query, keys, values, lengths))


SPANS = [Span(0, 0, 300), Span(1, 0, 300), Span(2, 50, 64), Span(3, 0, 17), Span(2, 114, 1)]


@pytest.mark.parametrize("window", [0, 33])
@pytest.mark.parametrize("flash", [True, False])
def test_prompts_agree_with_the_oracle(monkeypatch: pytest.MonkeyPatch, flash: bool, window: int) -> None:
    if flash and models._flash_attn() is None:
        pytest.skip("NOT RUN: flash-attn is not installed")
    if not flash:
        monkeypatch.setattr(models, "_flash_attn", lambda: None)
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
    if models._flash_attn() is None:
        pytest.skip("NOT RUN: flash-attn is not installed")
    for Q, window in ((1, 0), (3, 0), (1, 33), (3, 33)):
        inputs = Case(3, Q, 8, 2, 64, 200).make([200, 41, 0], torch.bfloat16, device=CUDA)
        ours = assert_agrees(*inputs, window=window)
        theirs = models.decode_attention(*inputs, window=window, backend="flash-attn")
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)
