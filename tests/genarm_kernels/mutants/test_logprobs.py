"""Broken variants of token_logprobs' kernels."""

from collections.abc import Callable

import logprobs_cases as cases
import logprobs_kernel_cases as alone
import pytest
from mutations import Mutation, edited, proofs, replaced

from genarm_kernels.logprobs import blocks, kernels

pytestmark = [pytest.mark.mutants, pytest.mark.interpreter, pytest.mark.usefixtures("stale_memory")]
ROWS, PARTS, BITS, COLUMNS = (
    alone.rows_become_slopes_and_nothing_else_is_written,
    alone.pieces_apart_become_slopes_and_nothing_else_is_written,
    alone.a_row_has_the_same_bits_whatever_its_batch,
    alone.columns_become_slopes_and_nothing_else_is_written,
)
MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "the last block left out": (edited(kernels.piece_sum, "LAST and stop > whole", "LAST and stop > V"), ROWS),
    "the last block counted by every piece":
        (edited(kernels.piece_sum, "LAST and stop > whole", "LAST and V > whole"), PARTS),
    "padding summed": (edited(kernels.load_last, "tl.where(ids < V, ", "tl.where(ids < V + 1, "), ROWS),
    "a lane's last logits left out": (edited(kernels.load_last, "ids // LANE * LANE < V", "ids < V - 1"), ROWS),
    "a lane too many stored":
        (edited(kernels.finish_rows_kernel, "mask=ids // LANE * LANE < V", "mask=ids // LANE * LANE < V + LANE"), ROWS),
    "the last slopes not stored":
        (edited(kernels.finish_rows_kernel, "mask=ids // LANE * LANE < V", "mask=ids < V - 1"), ROWS),
    "sums not brought to the new peak": (edited(kernels.add_block, "sums * tl.exp(peaks - top)", "sums"), PARTS),
    "lanes' sums not brought to the row's peak":
        (edited(kernels.piece_sum, "sums * tl.exp(peaks - peak)", "sums"), ROWS),
    "pieces' sums not brought to the row's peak":
        (edited(kernels.finish_rows_kernel, "all_sums * tl.exp(all_peaks - peak)", "all_sums"), PARTS),
    "no peak taken off":
        (edited(kernels.add_block, "tl.exp(z - top[:, None])", "tl.exp(z)"), cases.large_logits_keep_their_differences),
    "the last piece left out":
        (edited(kernels.finish_rows_kernel, "places < pieces, other=LOW", "places < pieces - 1, other=LOW"), PARTS),
    "the first piece left out of a row's":
        (edited(kernels.piece_sums, "range(pieces - 1)", "range(1, pieces - 1)"), BITS),
    "only the last piece of a row": (edited(kernels.piece_sums, "total, sums)", "total, 0.0)", count=2), BITS),
    "pieces in another order where they are not apart":
        (edited(kernels.piece_sums, "places == piece,", "places == (piece + 1) % (pieces - 1),", count=2), BITS),
    "another row's pieces":
        (edited(kernels.piece_sums_kernel, "tl.store(sums + row * ", "tl.store(sums + 0 * "), PARTS),
    "the first piece's logits overwritten by all":
        (edited(kernels.finish_rows_kernel, "start = piece * PIECE", "start = 0 * PIECE"), PARTS),
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
        alone.ids_that_do_not_exist_give_nan),
    "an id below 0 taken for the first":
        (edited(kernels.token_logit, "(token >= 0) & ", ""), alone.ids_that_do_not_exist_give_nan),
    "an id beyond the vocabulary taken for one":
        (edited(kernels.token_logit, " & (token < V)", " & (token < V + 1)"), alone.ids_that_do_not_exist_give_nan),
    "a strange id's row goes on": (
        edited(kernels.finish_rows_kernel, "tl.where(logit == logit, total", "tl.where(row == row, total"),
        alone.ids_that_do_not_exist_give_nan),
    "every block of columns begins at 0": (edited(kernels.finish_columns_kernel, "(token - first)", "token"), COLUMNS),
    "grads left out": (edited(kernels.finish_columns_kernel, " * grad", "", count=2), COLUMNS),
    "a row's grad taken for all": (edited(kernels.finish_columns_kernel, "grads + row", "grads"), COLUMNS),
    "a last block of fewer columns taken for a whole one":
        (edited(kernels.finish_columns_kernel, "start + COLUMNS <= width", "start + COLUMNS <= width + 8"), COLUMNS),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
