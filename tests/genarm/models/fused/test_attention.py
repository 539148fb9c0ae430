"""Attention of prompts and of new tokens, by torch, by the kernel and by flash-attn as it asks to be called."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from attention_cases import TOLERANCE, Case, assert_agrees
from torch import Tensor

import genarm_kernels
from genarm import InvalidArgumentError
from genarm.checks import check_paths
from genarm.cli import info
from genarm.models.fused import attention
from genarm.models.fused import flash as flash_module
from genarm.models.fused.attention import Span, decode_attention, prefill_attention

SPANS = {
    "one prompt": [Span(1, 0, 20)],
    "prompts of different lengths": [Span(0, 0, 9), Span(1, 0, 20), Span(2, 0, 1)],
    "equal prompts, one call": [Span(0, 0, 7), Span(1, 0, 7), Span(2, 0, 7)],
    "rows in any order": [Span(3, 0, 7), Span(0, 0, 7), Span(2, 0, 7)],
    "every other row": [Span(0, 0, 7), Span(2, 0, 7)],
    "second chunks": [Span(0, 11, 6), Span(1, 11, 6), Span(2, 3, 6)],
    "a last token": [Span(0, 19, 1), Span(1, 0, 1)],
    "the end of one prompt and the start of the next": [Span(2, 15, 5), Span(3, 0, 8)],
    "two pieces of one row": [Span(1, 0, 4), Span(1, 4, 9)],
}
T, H, H_KV, D = 23, 4, 2, 16


def packed(spans: list[Span], dtype: torch.dtype, order: str = "heads first") -> tuple[Tensor, Tensor, Tensor]:
    """Query [N, H, D] and caches, NaN behind what the spans of a row have written."""
    lengths = [max((span.stop for span in spans if span.row == row), default=0) for row in range(4)]
    query = torch.randn(sum(span.count for span in spans), H, D, generator=torch.Generator().manual_seed(1))
    _, keys, values, _ = Case(4, 1, H, H_KV, D, T).make(lengths, dtype, order)
    return query.to(dtype), keys, values


def oracle(query: Tensor, keys: Tensor, values: Tensor, spans: list[Span], scale: float, window: int) -> Tensor:
    parts = []
    for span, tokens in zip(spans, query.split([span.count for span in spans]), strict=True):
        row = slice(span.row, span.row + 1)
        lengths = torch.tensor([span.stop])
        parts.append(
            genarm_kernels.reference.decode_attention(tokens[None], keys[row], values[row], lengths, scale, window)
        )
    return torch.cat(parts, 1)[0]


def assert_prefill_agrees(spans: list[Span], dtype: torch.dtype, window: int, order: str = "heads first") -> None:
    inputs = packed(spans, dtype, order)
    ours = prefill_attention(*inputs, spans, 0.3, window)
    assert ours.dtype == dtype and ours.shape == inputs[0].shape and ours.is_contiguous()
    expected = oracle(*inputs, spans, 0.3, window)
    torch.testing.assert_close(ours.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("window", [0, 1, 5, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SPANS)
def test_packed_prompts_attend_to_their_own_rows_alone(name: str, dtype: torch.dtype, window: int) -> None:
    assert_prefill_agrees(SPANS[name], dtype, window)


@pytest.mark.parametrize("order", ["positions first", "rows last"])
def test_caches_may_lie_in_memory_in_any_order(order: str) -> None:
    for spans in SPANS.values():
        assert_prefill_agrees(spans, torch.float32, 5, order)


@pytest.mark.parametrize("window", [0, 1, 3, 5])
def test_long_spans_go_in_pieces(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(attention, "PIECE", 3)
    for spans in SPANS.values():
        assert_prefill_agrees(spans, torch.float32, window)


def test_a_window_bounds_what_a_piece_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(query: Tensor, key: Tensor, *arguments: object, attn_mask: Tensor | None, **options: object) -> Tensor:
        seen.append((key.shape[2], None if attn_mask is None else attn_mask.shape[0]))
        return torch.nn.functional.scaled_dot_product_attention(query, key, *arguments, attn_mask=attn_mask, **options)

    monkeypatch.setattr(attention, "PIECE", 4)
    monkeypatch.setattr(attention, "scaled_dot_product_attention", spy)
    assert_prefill_agrees([Span(0, 0, 20)], torch.float32, 5)
    assert seen == [(4, None), *[(8, 4)] * 4]


def test_a_prompt_from_its_start_needs_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(attention, "_mask")
    for name in ("one prompt", "prompts of different lengths", "equal prompts, one call", "a last token"):
        for window in (0, 50):
            assert_prefill_agrees(SPANS[name], torch.float32, window)


@pytest.mark.parametrize(
    ("spans", "window", "said"),
    [
        ([Span(0, 0, 3)], 0, "the spans have 3 tokens"),
        ([Span(4, 0, 4)], 0, "not within caches of 4 rows"),
        ([Span(0, 20, 4)], 0, "23 positions"),
        ([Span(0, -1, 4)], 0, "not within"),
        ([Span(0, 0, 4), Span(1, 0, 0)], 0, "or is empty"),
        ([Span(0, 0, 4)], -1, "window is -1"),
    ],
)
def test_spans_that_do_not_fit_are_refused(spans: list[Span], window: int, said: str) -> None:
    query, keys, values = packed([Span(0, 0, 4)], torch.float32)
    with pytest.raises(ValueError, match=said):
        prefill_attention(query, keys, values, spans, 1.0, window)
    with pytest.raises(ValueError, match="do not fit"):
        prefill_attention(query[:, :3], keys, values, [Span(0, 0, 4)], 1.0)


class FakeFlash:
    """flash_attn_with_kvcache by its documentation, and what it was called with."""

    def __init__(self) -> None:
        self.calls: list[SimpleNamespace] = []

    def flash_attn_with_kvcache(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        k: Tensor | None = None,
        v: Tensor | None = None,
        rotary_cos: Tensor | None = None,
        rotary_sin: Tensor | None = None,
        cache_seqlens: Tensor | None = None,
        cache_batch_idx: Tensor | None = None,
        cache_leftpad: Tensor | None = None,
        block_table: Tensor | None = None,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
    ) -> Tensor:
        """Without cache_batch_idx row b of q is row b of the cache; causal and window count from the end of both."""
        assert cache_seqlens is not None and cache_seqlens.dtype == torch.int32 and softmax_scale is not None
        self.calls.append(SimpleNamespace(q=q, rows=cache_batch_idx, window=window_size))
        if cache_batch_idx is not None:
            assert cache_batch_idx.dtype == torch.int32
            k_cache, v_cache = k_cache[cache_batch_idx], v_cache[cache_batch_idx]
        assert len(k_cache) == len(v_cache) == len(q) == len(cache_seqlens)
        out = torch.zeros_like(q)
        for row, length in enumerate(cache_seqlens.tolist()):
            place = torch.arange(q.shape[1])[:, None] + length - q.shape[1]
            at = torch.arange(length)
            left, right = window_size[0], 0 if causal else window_size[1]
            seen = (at >= place - left if left >= 0 else at >= 0) & (at <= place + right if right >= 0 else at >= 0)
            keys, values = (x[row, :length].repeat_interleave(q.shape[2] // x.shape[2], 1) for x in (k_cache, v_cache))
            scores = torch.einsum("qhd,thd->hqt", q[row], keys) * softmax_scale
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num()
            out[row] = torch.einsum("hqt,thd->qhd", weights, values)
        return out


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeFlash]:
    fake = FakeFlash()
    monkeypatch.setattr(attention, "_flash_takes", lambda *tensors: True)
    monkeypatch.setattr(attention, "flash_attn", lambda: fake)
    return fake


@pytest.mark.parametrize("window", [0, 1, 5, 50])
@pytest.mark.parametrize("name", SPANS)
def test_flash_attn_is_called_as_it_asks_to_be(flash: FakeFlash, name: str, window: int) -> None:
    assert_prefill_agrees(SPANS[name], torch.float32, window)
    assert flash.calls


def test_flash_attn_takes_equal_counts_in_one_call_whatever_their_starts(flash: FakeFlash) -> None:
    assert_prefill_agrees(SPANS["second chunks"], torch.float32, 0)
    assert_prefill_agrees(SPANS["rows in any order"], torch.float32, 0)
    in_order, any_order = flash.calls
    assert in_order.rows is None
    assert any_order.rows.tolist() == [3, 0, 2]


@pytest.mark.parametrize("window", [0, 1, 5])
def test_new_tokens_go_through_flash_attn_when_asked(flash: FakeFlash, window: int) -> None:
    case = Case(3, 3, 4, 2, 16, 12)
    inputs = case.make([12, 2, 0], torch.float32)
    ours = decode_attention(*inputs, window=window, backend="flash-attn")
    assert len(flash.calls) == 1
    expected = genarm_kernels.reference.decode_attention(*inputs, window=window)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(decode_attention(*inputs, window=window), assert_agrees(*inputs, window=window))
    assert len(flash.calls) == 1


def test_flash_attn_is_refused_where_it_cannot_be() -> None:
    inputs = Case(1, 1, 2, 2, 16, 4).make([3], torch.bfloat16)
    with pytest.raises(ValueError, match=r'use backend="kernel"'):
        decode_attention(*inputs, backend="flash-attn")


def cuda_like(dtype: torch.dtype = torch.bfloat16, D: int = 64, stride: int = 64) -> SimpleNamespace:
    device = SimpleNamespace(type="cuda")
    return SimpleNamespace(device=device, dtype=dtype, shape=(3, 8, D), stride=lambda: (512, 128, stride, 1))


def test_flash_attn_is_taken_for_tensors_it_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "flash_attn", lambda: FakeFlash())
    takes = attention._flash_takes
    cache = cuda_like()
    assert takes(cuda_like(), cache, cache)
    assert not takes(cuda_like(torch.float32), cache, cache)
    assert not takes(cuda_like(D=20), cache, cache) and not takes(cuda_like(D=264), cache, cache)
    assert not takes(cuda_like(), cuda_like(stride=68), cache)
    monkeypatch.setattr(attention, "flash_attn", lambda: None)
    assert not takes(cuda_like(), cache, cache)


@pytest.mark.parametrize(
    ("module", "words"),
    [(SimpleNamespace(), "no flash_attn_with_kvcache"), (OSError("undefined\n symbol: x"), "undefined symbol: x")],
)
def test_what_bears_the_name_of_flash_attn_and_is_not_it_is_left_out(
    module: object, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """flash-attn 4's namespace, and a wheel for another torch."""

    def imported(_name: str) -> object:
        if isinstance(module, Exception):
            raise module
        return module

    monkeypatch.setattr(flash_module, "find_spec", lambda _name: "found")
    monkeypatch.setattr(flash_module, "import_module", imported)
    monkeypatch.setattr(flash_module, "_imported", flash_module._imported.__wrapped__)
    assert flash_module.flash_attn() is None
    with pytest.raises(InvalidArgumentError, match=f"attention is 'flash-attn', and .*{words}"):
        check_paths("auto", "flash-attn", torch.bfloat16, torch.device("cuda"))
    monkeypatch.setattr(info, "_version", lambda _name: "2.8")
    found = info._flash_attention([info.Device("a GPU", 2**34, "9.0")])
    assert found.uses == "not used" and words in found.why


def test_flash_attn_that_fails_when_called_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(*_: object, **__: object) -> None:
        calls.append(1)
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(flash_module, "_failures", [])
    monkeypatch.setattr(flash_module, "_imported", lambda: SimpleNamespace(flash_attn_with_kvcache=fail))
    monkeypatch.setattr(attention, "_flash_takes", lambda *_: flash_module.flash_attn() is not None)
    with pytest.warns(UserWarning, match="does not work here .RuntimeError: no kernel image") as said:
        for name in ("one prompt", "second chunks"):
            assert_prefill_agrees(SPANS[name], torch.float32, 0)
    assert len(calls) == len(said) == 1
