"""Checks of token_logprobs' kernels by themselves: what they write and nothing else, a row's bits, strange ids."""

import torch
import torch.nn.functional as F
from logprobs_cases import BF16, FP16, FP32, FP64, case, pieces, results, small_blocks
from torch import Tensor

from genarm_kernels import token_logprobs
from genarm_kernels.logprobs import kernels

SENTINEL = 77.0


def inside_sentinels(rows: int, columns: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Random logits [rows, columns] in a room of sentinels, rows at multiples of 16 bytes with padding behind."""
    room = torch.full((rows + 2, -(-columns // 64) * 64 + 64), SENTINEL, dtype=dtype, device=device)
    logits = room[1 : 1 + rows, :columns]
    logits.copy_(3 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(columns)))
    return logits, room


def only_its_block_is_written(room: Tensor, rows: int, columns: int) -> bool:
    """Sentinels everywhere but in the block and behind its rows, to the next multiple of 16 bytes."""
    lane, outside = 16 // room.element_size(), torch.ones_like(room, dtype=torch.bool)
    outside[1 : 1 + rows, : -(-columns // lane) * lane] = False
    return bool((room[outside] == SENTINEL).all())


def rows_become_slopes_and_nothing_else_is_written(device: str = "cpu") -> None:
    for V, dtype in ((1, BF16), (17, FP16), (1023, FP32), (1024, FP64), (1025, BF16), (3000, FP16), (3000, FP64)):
        _rows_are_right(4, V, dtype, device)


def pieces_apart_become_slopes_and_nothing_else_is_written(device: str = "cpu") -> None:
    for V, dtype in ((600, FP32), (1536, FP16), (2049, FP16), (2049, FP32)):
        with small_blocks(), pieces(apart=True):
            _rows_are_right(4, V, dtype, device)


def a_row_has_the_same_bits_whatever_its_batch(device: str = "cpu") -> None:
    ids = torch.arange(6, device=device)
    found = []
    for rows, apart in ((slice(0, 6), False), (slice(0, 6), True), (slice(2, 3), True)):
        logits = inside_sentinels(6, 2049, FP32, device)[0][rows].mul_(0.3).sub_(10)
        # One large logit: the sum is little over 1, and its logarithm shows the last bit.
        logits[:, 1000] = 0
        logprobs, totals = torch.empty(2, len(logits), device=device)
        with small_blocks(), pieces(apart):
            kernels.finish_rows(logits, ids[rows], -100, logprobs, totals, True)
        found.append(torch.cat([logprobs[:, None], totals[:, None], logits], 1))
    assert torch.equal(found[1], found[0]) and torch.equal(found[2], found[0][2:3])


def _rows_are_right(C: int, V: int, dtype: torch.dtype, device: str) -> None:
    logits, room = inside_sentinels(C, V, dtype, device)
    z, ids = logits.double().clone(), torch.tensor([0, V - 1, V // 2, -100], device=device)
    accurate = torch.promote_types(dtype, torch.float32)
    logits[3] = torch.nan
    logprobs, totals = (torch.full((C + 1,), SENTINEL, dtype=accurate, device=device) for _ in range(2))
    for slopes in (False, True):
        kernels.finish_rows(logits, ids, -100, logprobs[:C], totals[:C], slopes)
        assert slopes or torch.equal(logits[:3].double(), z[:3])
    p = z.softmax(1)
    torch.testing.assert_close(totals[:3].double(), z[:3].logsumexp(1), rtol=1e-5, atol=1e-5)
    exact = z.log_softmax(1).gather(1, ids.clamp(min=0)[:, None])[:, 0]
    torch.testing.assert_close(logprobs[:3].double(), exact[:3], rtol=1e-5, atol=1e-5)
    onehot = F.one_hot(ids.clamp(min=0), V)
    # The interpreter cuts to bfloat16 instead of rounding: a whole unit in the last place.
    torch.testing.assert_close(logits[:3].double(), (onehot - p)[:3], rtol=2**-7, atol=1e-6)
    assert bool((logits[3] == 0).all()) and float(logprobs[3]) == 0.0
    assert float(logprobs[C]) == float(totals[C]) == SENTINEL
    assert only_its_block_is_written(room, C, V)


def columns_become_slopes_and_nothing_else_is_written(device: str = "cpu") -> None:
    for width, first, dtype in (
        (1, 0, FP32), (17, 3, BF16), (640, 128, FP16), (2040, 1, BF16), (2048, 1, FP64), (2049, 4096, FP32),
        (5000, 70000, FP16),
    ):  # fmt: skip
        logits, room = inside_sentinels(5, width, dtype, device)
        z = logits.double().clone()
        ids = torch.tensor([first, first + width - 1, first + width, first - 1, -100], device=device)
        totals = z.logsumexp(1).to(torch.promote_types(dtype, torch.float32)) + 1
        logits[4] = totals[4] = torch.nan
        grads = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0], device=device).to(totals.dtype)
        kernels.finish_columns(logits, ids, -100, totals, grads, first)
        exact = -(z - totals.double()[:, None]).exp()
        exact[0, 0] += 1
        exact[1, width - 1] += 1
        exact *= grads.double()[:, None]
        torch.testing.assert_close(logits[:4].double(), exact[:4], rtol=2**-7, atol=1e-6)
        assert bool((logits[4] == 0).all())
        assert only_its_block_is_written(room, 5, width)


def ids_that_do_not_exist_give_nan(device: str = "cpu") -> None:
    hidden, lm_head, token_ids, bias = case(9, 300, 8, torch.float32, device)
    expected = token_logprobs(hidden, lm_head, token_ids, bias)
    for strange in (300, -1, -101, 2**31, 2**62):
        ids = token_ids.clone()
        ids[3] = strange
        grads = torch.ones(9, device=device)
        logprobs, d_hidden, d_head, _ = results(token_logprobs, hidden, lm_head, bias, grads=grads, token_ids=ids)
        rest = torch.arange(9, device=device) != 3
        assert bool(logprobs[3].isnan()) and torch.equal(logprobs[rest], expected[rest])
        assert bool(d_hidden[3].isnan().all()) and not bool(d_hidden[rest].isnan().any())
        assert bool(d_head.isnan().all())


KERNEL_CHECKS = (
    pieces_apart_become_slopes_and_nothing_else_is_written,
    a_row_has_the_same_bits_whatever_its_batch,
    rows_become_slopes_and_nothing_else_is_written,
    columns_become_slopes_and_nothing_else_is_written,
    ids_that_do_not_exist_give_nan,
)
