"""Broken variants of the residual stream's kernels for few rows.

The interpreter runs one program after the other, so three rules show on a GPU alone: that the others' h is waited for,
that all of a program's warps have stored theirs before it says so (test_residual_machine_code.py looks for the barrier
and for the order of the atomics), and that h comes from L2.
"""

from collections.abc import Callable

import embed_cases
import pytest
import residual_cases as cases
import triton
import triton.language as tl
from mutations import Mutation, edited, proofs, replaced

from genarm_kernels.layer import embed, products, residual
from genarm_kernels.layer.residual import add_linear_kernel

pytestmark = [pytest.mark.mutants, pytest.mark.interpreter, pytest.mark.usefixtures("stale_memory")]


@triton.jit
def reset_by_the_first(counters, awaited, waiting):  # type: ignore[no-untyped-def]
    """Who would now wait for ever leaves a mark instead."""
    if tl.atomic_add(counters, 0) < awaited:
        tl.store(counters, -1)
    elif tl.atomic_add(counters + 1, 1) == 0:
        tl.store(counters, 0)
        tl.store(counters + 1, 0)


ADDED: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "the product not rounded before it is added":
        (edited(add_linear_kernel, "tl.trans(y).to(residual.dtype.element_ty)", "tl.trans(y)"), cases.without_adapters),
    "the residual not added": (
        edited(add_linear_kernel, "tl.load(to, mask=live, other=0.0).to(tl.float32) + ", ""), cases.without_adapters),
    "squares of sums that are not rounded": (
        edited(add_linear_kernel, "squares_stride, rounded.to(tl.float32)", "squares_stride, value"),
        cases.without_adapters),
    "squares at another tile's place": (
        edited(residual.store_squares, "place = tile * EIGHTS", "place = (tile ^ 1) * EIGHTS"), cases.without_adapters),
    "the squares of a last, shorter eight left out": (
        edited(residual.store_squares, "(place < tl.cdiv(N, 8))", "(place < N // 8)"),
        cases.without_adapters),
    "squares of a row too many":
        (edited(residual.store_squares, "(rows < R)[:, None]", "(rows < R + 1)[:, None]"), cases.without_adapters),
    "a row too many stored": (
        edited(add_linear_kernel, "live = (rows < R)[:, None]", "live = (rows < R + 1)[:, None]"),
        cases.without_adapters),
    "a column too many stored":
        (edited(add_linear_kernel, "(n < stop)[None, :]", "(n < stop + 1)[None, :]"), cases.without_adapters),
    "another column's bias":
        (edited(add_linear_kernel, "bias + n, mask", "bias + (n ^ 1), mask"), cases.without_adapters),
    "one row's adapter for all":
        (edited(residual.expand_tile, "tl.load(adapters + rows,", "tl.load(adapters + 0 * rows,"), cases.with_adapters),
    "another adapter's h":
        (edited(residual.expand_tile, "rows * SHRINKS + adapter * RANK", "rows * SHRINKS"), cases.with_adapters),
    "another row's h":
        (edited(residual.expand_tile, "rows * SHRINKS + adapter", "0 * rows + adapter"), cases.with_adapters),
    "another adapter's B": (
        edited(residual.expand_tile, "(adapter.to(tl.int64)[:, None] * N", "(0 * adapter[:, None]"),
        cases.with_adapters),
    "an expand for rows without adapters":
        (edited(residual.expand_tile, "live & (adapter >= 0)[:, None]", "live"), cases.with_adapters),
    "ranks behind the last read":
        (edited(residual.load_up, "(place < RANK)", "(place < STEP)"), cases.with_adapters),
    "only the first ranks": (
        edited(residual.expand_tile, "range(STEP, RANK, STEP)", "range(STEP, STEP, STEP)"),
        cases.with_more_ranks_than_one_step_takes),
    "the first ranks of B again": (
        edited(residual.expand_tile, "load_up(up, own, start, RANK", "load_up(up, own, 0, RANK"),
        cases.with_more_ranks_than_one_step_takes),
    "the tiles of A one too far": (
        edited(add_linear_kernel, "(tile + FIRST) * BLOCK_N", "(tile + FIRST + 1) * BLOCK_N"), cases.with_adapters),
    "one tile of A for all that there are": (
        edited(add_linear_kernel, "(tile + FIRST) * BLOCK_N", "0 * BLOCK_N"),
        cases.with_more_ranks_than_one_step_takes),
    "columns beside A's left out of the count of its tiles": (
        edited(residual._launch, "(N % cut.BLOCK_N + shrinks)", "shrinks"), cases.with_more_ranks_than_one_step_takes),
    "h at another column": (
        edited(add_linear_kernel, "(n - N)[None, :], z", "((n - N + 1) % SHRINKS)[None, :], z"), cases.with_adapters),
    "the count of those who arrived left":
        (edited(residual.wait_for, "tl.store(counters, 0)", "pass"), cases.launches_follow_one_another),
    "the count of those who waited left":
        (edited(residual.wait_for, "tl.store(counters + 1, 0)", "pass"), cases.launches_follow_one_another),
    "the counters left by the last":
        (edited(residual.wait_for, "== waiting - 1", "== waiting"), cases.launches_follow_one_another),
    "the counters reset by the first": (replaced(residual.wait_for, reset_by_the_first), cases.with_adapters),
    "an adapter that no row has read": (
        edited(residual.expand_tile, "load_up(up, own, 0, RANK, STEP)  #", "load_up(up, live, 0, RANK, STEP)  #"),
        cases.nothing_else_is_read),
}  # fmt: skip
NORMED: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "the norm's weight of the first columns for all": (
        edited(products.products, "tl.load(gain + k + at, mask", "tl.load(gain + k, mask"), cases.of_several_blocks),
    "the same in whole steps":
        (edited(products.products, "tl.load(gain + k + at) if", "tl.load(gain + k) if"), cases.of_several_blocks),
    "the scaled row not rounded": (
        edited(products.products, "scales[None, :, None]).to(v.dtype)", "scales[None, :, None])"),
        cases.without_adapters),
    "the normed row not rounded": (
        edited(products.products, "g.to(tl.float32)).to(v.dtype)", "g.to(tl.float32))"), cases.without_adapters),
    "another row's scale":
        (edited(products.row_scales, "rows.to(tl.int64)[:, None]", "(0 * rows)[:, None]"), cases.without_adapters),
    "ε left out": (edited(products.row_scales, "/ H + eps", "/ H"), cases.without_adapters),
    "the mean over the blocks": (
        edited(products.row_scales, "tl.sum(total, 1) / H", "tl.sum(total, 1) / (8 * EIGHTS * BLOCKS)"),
        cases.without_adapters),
    "the last block of squares left out": (
        edited(products.row_scales, "tl.static_range(BLOCKS)", "tl.static_range(BLOCKS - 1)"), cases.of_several_blocks),
    "one block of squares for all":
        (edited(products.row_scales, "place = block * EIGHTS", "place = 0 * EIGHTS"), cases.of_several_blocks),
    "squares of a row too many read":
        (edited(products.row_scales, "(rows < R)[:, None]", "(rows < R + 1)[:, None]"), cases.nothing_else_is_read),
}  # fmt: skip
every, unknown = embed_cases.CHECKS
EMBEDDED: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "lengths not moved": (edited(embed.embed_kernel, "lengths + row, length + Q", "lengths + row, length"), every),
    "lengths moved by one":
        (edited(embed.embed_kernel, "lengths + row, length + Q", "lengths + row, length + 1"), every),
    "one position for all of a row's tokens":
        (edited(embed.embed_kernel, "* Q + q, length + q)", "* Q + q, length)"), every),
    "one row's tokens for all of a stream": (edited(embed.embed_kernel, "row % B * Q", "row // B * Q"), every),
    "the first of a row's tokens for all": (edited(embed.embed_kernel, "row % B * Q + q)", "row % B * Q)"), every),
    "the embedding's stride taken for N": (edited(embed.embed_kernel, "* embedding_stride", "* N"), every),
    "only the first block of columns": (edited(embed.embed_kernel, "column = start +", "column ="), every),
    "what lies behind the squares not zero": (
        edited(embed.embed_kernel, "tl.store(to, sum_eight_squares(value))",
            "tl.store(to, sum_eight_squares(value), mask=start // 8 + tl.arange(0, BLOCK // 8) < N // 8)"),
        every),
    "squares at the first block's place":
        (edited(embed.embed_kernel, "squares_stride + start // 8", "squares_stride"), every),
    "an id that does not exist read as the first": (
        edited(embed.embed_kernel, "value = tl.where(there | (column >= N), value, float(\"nan\"))", "pass"), unknown),
    "the row behind the last read": (edited(embed.embed_kernel, "(token < V)", "(token <= V)"), unknown),
    "the row before the first read": (edited(embed.embed_kernel, "(token >= 0)", "(token >= -1)"), unknown),
    "NaN in what lies behind the squares": (edited(embed.embed_kernel, "there | (column >= N)", "there"), unknown),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs({**ADDED, **NORMED, **EMBEDDED})
