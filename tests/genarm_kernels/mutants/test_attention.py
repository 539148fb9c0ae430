"""Broken variants of decode_attention's kernels."""

from collections.abc import Callable

import attention_cases as cases
import pytest
import torch
from mutations import Mutation, edited, proofs, replaced, rewritten
from races import watched

from genarm_kernels.layer import attention, parts

pytestmark = [pytest.mark.mutants, pytest.mark.interpreter, pytest.mark.usefixtures("stale_memory")]


def bits_follow_the_row_alone() -> None:
    cases.check_a_row_does_not_depend_on_its_batch(torch.float32)


def no_races() -> None:
    with pytest.MonkeyPatch.context() as patch:
        watch = watched(patch)
        query, keys, values = torch.randn(2, 1, 2, 16), *torch.randn(2, 2, 150, 2, 16)
        attention.decode_attention(query, keys, values, torch.tensor([150, 10], dtype=torch.int32))
        assert watch.races == []


def counted_before_its_parts_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the barrier and the order of the atomic keep the stores before it, which the interpreter cannot see."""
    loop, arrive = (
        "    for split in range(program, count, P):\n",
        'tl.atomic_add(arrivals + pair, 1, sem="acq_rel", scope="gpu")',
    )
    early = rewritten(split, arrive, "arrived")
    replaced(split, rewritten(early, loop, f"    arrived = {arrive}\n{loop}"))(monkeypatch)


split, attend, weigh = attention.attention_kernel, parts.attend, parts.weigh
combine, cut = parts.combine, parts.row_splits
MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "last position dropped": (edited(split, "at <= place[:, None]", "at < place[:, None]"), cases.check_lengths),
    "no order among new tokens": (edited(split, "(at <= place[:, None])", "(at >= 0)"), cases.check_lengths),
    "garbage behind a row read": (edited(split, "(start + t < end)", "(start + t < positions)"), cases.check_lengths),
    "a length of 0 gives NaN": (edited(combine, "tl.where(total == 0.0, 1.0, total)", "total"), cases.check_lengths),
    "last split dropped": (edited(cut, "tl.cdiv(blocks, each)", "blocks // each"), cases.check_many_splits),
    "a split's end forgotten": (edited(split, "begin + size, length", "length, length"), cases.check_many_splits),
    "splits not rescaled": (edited(weigh, "own[i] - peak", "own[i] - own[i]"), cases.check_many_splits),
    "splits' totals not rescaled": (edited(combine, "found - peak[:, None]", "found - found"), cases.check_many_splits),
    "peaks not compared": (edited(combine, "tl.max(found, 1)", "tl.min(found, 1)"), cases.check_many_splits),
    "one split too few combined":
        (edited(weigh, "range(begin, end, ROUND)", "range(begin, end - 1, 1)"), cases.check_order),
    "rounds overlap": (edited(weigh, "range(begin, end, ROUND)", "range(begin, end, ROUND // 2)"), cases.check_order),
    "another order of splits": (edited(weigh, "start + i", "start + ROUND - 1 - i", count=2), cases.check_order),
    "programs take the same splits":
        (edited(split, "range(program, count, P)", "range(0, count, P)"), cases.check_order),
    "no stride over splits":
        (edited(split, "range(program, count, P)", "range(program, program + 1)"), cases.check_order),
    "counter not reset": (edited(split, "tl.store(arrivals + pair, 0)", "pass"), cases.check_order),
    "combined before the last arrives":
        (edited(split, "tl.minimum(count, P) - 1", "tl.minimum(count, P) - 2"), cases.check_order),
    "arrivals of programs without a split awaited":
        (edited(split, "tl.minimum(count, P) - 1", "P - 1"), cases.check_order),
    "arrivals of splits awaited": (edited(split, "tl.minimum(count, P) - 1", "count - 1"), cases.check_order),
    "counted before its parts are stored": (counted_before_its_parts_are_stored, no_races),
    "one counter per row": (edited(split, "row * tl.num_programs(1) + tl.program_id(1)", "row + 0"), cases.check_order),
    "an empty row left alone":
        (edited(cut, "tl.maximum(tl.cdiv(blocks, each), 1)", "tl.cdiv(blocks, each)"), cases.check_order),
    "queries behind the first sixteen left alone":
        (edited(split, "range(0, N, QUERIES)", "range(0, QUERIES, QUERIES)"), cases.check_tiles),
    "sums not rescaled": (edited(attend, "total * kept[:, None]", "total"), cases.check_many_splits),
    "values not rescaled": (edited(attend, "weighted * kept[:, None]", "weighted"), cases.check_many_splits),
    "heads and tokens swapped":
        (edited(split, "head * G + m % G", "head + m % G * (H // G)"), cases.check_heads_and_tokens_keep_their_places),
    "a token's head for its place": (edited(split, "m // G, head", "m % Q, head"), cases.check_windows),
    "window one too wide": (edited(split, "at > place", "at + 1 > place"), cases.check_windows),
    "window from the last token": (edited(cut, "length - Q + 1 - window", "length - window"), cases.check_windows),
    "splits by the cache's length":
        (edited(cut, "tl.cdiv(blocks, _SPLITS)", "tl.cdiv(positions, 140)"), bits_follow_the_row_alone),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
