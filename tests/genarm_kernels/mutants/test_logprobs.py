"""Broken variants of token_logprobs' kernels."""

from collections.abc import Callable

import logprobs_cases as cases
import pytest
from mutations import Mutation, edited, proofs, replaced

from genarm_kernels.logprobs import blocks, kernels

pytestmark = [pytest.mark.mutants, pytest.mark.interpreter, pytest.mark.usefixtures("stale_memory")]
ROWS, PARTS, COLUMNS = (
    cases.rows_become_slopes_and_nothing_else_is_written,
    cases.rows_in_parts_become_slopes_and_nothing_else_is_written,
    cases.columns_become_slopes_and_nothing_else_is_written,
)
MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "the last block left out": (edited(kernels.peak_and_sum, "if stop > whole:", "if stop > V:"), ROWS),
    "the last block counted by every part": (edited(kernels.peak_and_sum, "if stop > whole:", "if V > whole:"), PARTS),
    "padding summed": (edited(kernels.load_last, "tl.where(ids < V, ", "tl.where(ids < V + 1, "), ROWS),
    "a lane's last logits left out": (edited(kernels.load_last, "ids // LANE * LANE < V", "ids < V - 1"), ROWS),
    "a lane too many stored":
        (edited(kernels.finish_rows_kernel, "mask=ids // LANE * LANE < V", "mask=ids // LANE * LANE < V + LANE"), ROWS),
    "the last slopes not stored":
        (edited(kernels.finish_rows_kernel, "mask=ids // LANE * LANE < V", "mask=ids < V - 1"), ROWS),
    "sums not brought to the new peak": (edited(kernels.add_block, "sums * tl.exp(peaks - top)", "sums"), PARTS),
    "lanes' sums not brought to the row's peak":
        (edited(kernels.peak_and_sum, "sums * tl.exp(peaks - peak)", "sums"), ROWS),
    "parts' sums not brought to the row's peak":
        (edited(kernels.finish_rows_kernel, "part_sums * tl.exp(part_peaks - peak)", "part_sums"), PARTS),
    "no peak taken off":
        (edited(kernels.add_block, "tl.exp(z - top[:, None])", "tl.exp(z)"), cases.large_logits_keep_their_differences),
    "the last part left out":
        (edited(kernels.finish_rows_kernel, "places < PARTS, other=LOWEST", "places < PARTS - 1, other=LOWEST"), PARTS),
    "another row's parts": (edited(kernels.row_sums_kernel, "tl.store(sums + row * ", "tl.store(sums + 0 * "), PARTS),
    "the first part's logits overwritten by all":
        (edited(kernels.finish_rows_kernel, "start = place * part * BLOCK", "start = 0 * part * BLOCK"), PARTS),
    "the id to ignore taken for a token": (
        edited(kernels.finish_rows_kernel, "ignored = token == ignore_index", "ignored = token != token"),
        cases.ignored_rows_count_for_nothing),
    "slopes of rows to ignore": (
        edited(kernels.slopes_of, "tl.where(ignored, 0.0, ", "tl.where(place < -1, 0.0, "),
        cases.ignored_rows_count_for_nothing),
    "hidden states of rows to ignore in dW":
        (replaced(blocks.without, lambda hidden, ignored: hidden), cases.ignored_rows_count_for_nothing),
    "no token's one": (edited(kernels.slopes_of, "at == place, 1.0", "at == place, 0.0"), ROWS),
    "ids cut to 32 bits before they are compared": (
        edited(kernels.token_logit, "there = (token >= 0)", "token = token.to(tl.int32)\n    there = (token >= 0)"),
        cases.ids_that_do_not_exist_give_nan),
    "an id below 0 taken for the first":
        (edited(kernels.token_logit, "(token >= 0) & ", ""), cases.ids_that_do_not_exist_give_nan),
    "an id beyond the vocabulary taken for one":
        (edited(kernels.token_logit, " & (token < V)", " & (token < V + 1)"), cases.ids_that_do_not_exist_give_nan),
    "a strange id's row goes on": (
        edited(kernels.finish_rows_kernel, "tl.where(picked == picked, total", "tl.where(row == row, total"),
        cases.ids_that_do_not_exist_give_nan),
    "every block of columns begins at 0": (edited(kernels.finish_columns_kernel, "(token - first)", "token"), COLUMNS),
    "grads left out": (edited(kernels.finish_columns_kernel, " * grad", "", count=2), COLUMNS),
    "a row's grad taken for all": (edited(kernels.finish_columns_kernel, "grads + row", "grads"), COLUMNS),
    "a last block of fewer columns taken for a whole one":
        (edited(kernels.finish_columns_kernel, "start + COLUMNS <= width", "start + COLUMNS <= width + 8"), COLUMNS),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
