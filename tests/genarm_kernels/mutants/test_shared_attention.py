"""Broken variants of the kernels for shared prefixes."""

from collections.abc import Callable

import pytest
import shared_attention_cases as cases
from mutations import Mutation, edited, proofs

from genarm_kernels.layer import attention, parts, prefixes

pytestmark = [pytest.mark.mutants, pytest.mark.interpreter, pytest.mark.usefixtures("stale_memory")]

kernel, own = prefixes.prefixes_kernel, attention.attention_kernel
seen, combine = parts.prefix_seen, parts.combine
MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "last position of a prefix dropped":
        (edited(kernel, "tl.minimum(place, high - 1)", "tl.minimum(place, high - 2)"), cases.check_one_prefix_for_all),
    "one position behind a prefix seen":
        (edited(kernel, "tl.minimum(place, high - 1)", "tl.minimum(place, high)"), cases.check_shorter_than_the_prefix),
    "no order among new tokens in a prefix":
        (edited(kernel, "tl.minimum(place, high - 1)", "high - 1"), cases.check_lengths),
    "garbage behind what rows see read":
        (edited(kernel, "(there >= first) & (there < last)", "there >= first"), cases.check_shorter_than_the_prefix),
    "garbage before a window read":
        (edited(kernel, "(there >= first) & (there < last)", "there < last"),
         cases.check_nan_leaves_rows_alone_that_do_not_see_it),
    "NaN for all rows of a tile":
        (edited(kernel, "uneven & nan", "uneven & (turn > 0)"), cases.check_nan_leaves_rows_alone_that_do_not_see_it),
    "the last row of a tile not by itself":
        (edited(kernel, "turn < turns", "turn < turns - 1"), cases.check_nan_leaves_rows_alone_that_do_not_see_it),
    "the first row of a tile not by itself":
        (edited(kernel, "+ turn - 1", "+ turn"), cases.check_nan_leaves_rows_alone_that_do_not_see_it),
    "window one too wide":
        (edited(kernel, "> place[:, None] - window", ">= place[:, None] - window"), cases.check_windows),
    "window from the last token": (edited(seen, "length - Q + 1 - window", "length - window"), cases.check_windows),
    "rows of other prefixes": (edited(kernel, "begin_rows + sharer", "sharer", count=2), cases.check_regrouped),
    "rows as they lie in the batch":
        (edited(kernel, "tl.load(order + begin_rows + sharer, mask=at < queries, other=0)", "(begin_rows + sharer)"),
         cases.check_regrouped),
    "one tile of rows": (edited(kernel, "tl.cdiv(queries, M)", "tl.minimum(queries, 1)"), cases.check_several_tiles),
    "a tile begins with a row":
        (edited(kernel, "tile * M + n", "tile * (M // (Q * G) * (Q * G)) + n"), cases.check_several_tiles),
    "a row's tiles in one":
        (edited(kernel, "m // ROW_M) * S", "0) * S"), cases.check_several_tiles),
    "heads and tokens swapped":
        (edited(kernel, "head * G + m % G", "head + m % G"), cases.check_rows_of_several_prefixes),
    "steps from where rows begin to see":
        (edited(kernel, "begin + (first - begin) // BLOCK * BLOCK", "first"),
         cases.check_windows_that_begin_side_by_side),
    "splits by how many share":
        (edited(kernel, "row_splits(extents, prefix, 0, held,", "row_splits(bounds, prefix, 0, held,"),
         cases.check_a_row_does_not_depend_on_who_shares),
    "last split dropped": (edited(kernel, "tiles * count", "tiles * (count - 1)"), cases.check_long_prefixes),
    "a row longer than there is room": (edited(seen, "begun + positions)", "2147483647)"), cases.check_lengths),
    "a prefix not added": (edited(combine, "begin, end, N, D", "begin, begin, N, D"), cases.check_one_prefix_for_all),
    "a prefix's peak not compared":
        (edited(combine, "peak = tl.maximum(peak, tl.max(before, 1))", "pass"), cases.check_large_scores),
    "a prefix's total not rescaled":
        (edited(combine, "tl.exp2(before - peak[:, None])", "tl.exp2(before - before)"), cases.check_long_prefixes),
    "tails from where caches begin": (edited(own, "row_splits(lengths, row, begun,", "row_splits(lengths, row, 0,"),
                                      cases.check_one_prefix_for_all),
    "splits before a window added": (edited(own, "own_splits + low // size", "own_splits"), cases.check_windows),
    "splits behind what a row sees added":
        (edited(own, "tl.cdiv(high, size)", "tl.cdiv(extent, size)"), cases.check_shorter_than_the_prefix),
    "a tail's parts in a prefix's place":
        (edited(kernel, "own_splits + split", "split"), cases.check_one_prefix_for_all),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
