"""Broken variants of skinny_linear's kernels."""

from collections.abc import Callable

import linear_cases as cases
import pytest
from mutations import Mutation, edited, proofs

from genarm_kernels.layer import linear, products

pytestmark = [pytest.mark.mutants, pytest.mark.interpreter, pytest.mark.usefixtures("stale_memory")]


MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "the last step left out": (
        edited(linear.linear_kernel, "tl.cdiv(H, SLICES * SLICE)", "H // (SLICES * SLICE)"),
        cases.every_shape_is_exact),
    "a last step of fewer columns read as full":
        (edited(products.products, "if EVEN:", "if EVEN or STEP > 0:"), cases.every_shape_is_exact),
    "weights masked one column short": (
        edited(products.products, "weights + at, mask=k < H - at", "weights + at, mask=k < H - at - 1"),
        cases.every_shape_is_exact),
    "rows of W beyond the last read": (
        edited(products.products, "tl.minimum(n, last_row)", "n"),
        cases.the_weights_are_read_once_and_nothing_outside),
    "a row of x too many read": (
        edited(products.products, "live = (rows < R)", "live = (rows < R + 1)"),
        cases.the_weights_are_read_once_and_nothing_outside),
    "warps that share columns": (
        edited(products.products, "* SLICE + tl.arange(0, SLICE)", "* (SLICE - 1) + tl.arange(0, SLICE)"),
        cases.every_shape_is_exact),
    "every step reads the first columns":
        (edited(products.products, "at = step * STEP", "at = (step - step) * STEP"), cases.every_shape_is_exact),
    "x's stride taken for H":
        (edited(products.products, "[None, :, None] * x_stride", "[None, :, None] * H"), cases.every_shape_is_exact),
    "W's stride taken for H": (
        edited(products.products, "[None, :, None] * weight_stride", "[None, :, None] * H"),
        cases.every_shape_is_exact),
    "another column's bias":
        (edited(linear.linear_kernel, "tl.load(bias + n,", "tl.load(bias + (n ^ 1),"), cases.every_shape_is_exact),
    "a column too many stored": (
        edited(linear.linear_kernel, "mask=(n < N)[:, None]", "mask=(n < N + 1)[:, None]"),
        cases.every_shape_is_exact),
    "a row too many stored": (
        edited(linear.linear_kernel, "& (rows < R)[None, :]", "& (rows < R + 1)[None, :]"),
        cases.every_shape_is_exact),
    "the bias added by every part": (
        edited(linear.linear_by_kernel, "HAS_BIAS=bias is not None and cut.splits == 1", "HAS_BIAS=bias is not None"),
        cases.parts_of_h_are_added),
    "parts that overlap":
        (edited(linear.linear_kernel, "(part + 1) * steps", "(part + 2) * steps"), cases.parts_of_h_are_added),
    "one part added again and again":
        (edited(linear.sum_parts_kernel, "part * R + row", "row"), cases.parts_of_h_are_added),
    "the last part left out":
        (edited(linear.sum_parts_kernel, "tl.range(SPLITS)", "tl.range(SPLITS - 1)"), cases.parts_of_h_are_added),
    "a part's columns read from the next": (
        edited(linear.sum_parts_kernel, "tl.program_id(1) * COLUMNS", "tl.program_id(1) * 2 * COLUMNS"),
        cases.parts_of_h_are_added),
    "sums rounded to bfloat16 on the way": (
        edited(products.products, "return tl.sum(sums, 0)", "return tl.sum(sums.to(tl.bfloat16).to(tl.float32), 0)"),
        cases.random_numbers_are_as_near_as_their_dtype),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
