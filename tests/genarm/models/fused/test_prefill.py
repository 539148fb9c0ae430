"""Prompts packed for prefill: every token once, in order, never more than a chunk holds."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from families import random_prompts

from genarm.models.fused.prefill import chunks, distinct, unique_prompts


def test_rows_of_one_stream_share_a_prompt_and_streams_never_do() -> None:
    one, other = random_prompts([4, 6], seed=1)
    unique = unique_prompts([[one, other, one.clone()], [other, one, one]])
    assert unique.slots == [0, 1, 3, 4]
    assert unique.source == [0, 1, 0, 2, 3, 3]
    assert [prompt.tolist() for prompt in unique.prompts] == [row.tolist() for row in (one, other, other, one)]


def test_rows_of_different_adapters_share_no_prompt() -> None:
    one, other = random_prompts([4, 6], seed=1)
    unique = unique_prompts([[one, one, one, one], [other, one, one, one]], [-1, 3, -1, 3, 4, 4, 4, 5])
    assert unique.slots == [0, 1, 4, 5, 7]
    assert unique.source == [0, 1, 0, 1, 2, 3, 3, 4]


def test_the_first_of_the_same_prompts() -> None:
    one, other = random_prompts([4, 6], seed=1)
    assert distinct([one, other, one.clone(), other[:4], other]) == [0, 1, 0, 3, 1]


def test_a_prompt_that_begins_another_is_a_prompt_of_its_own() -> None:
    (long,) = random_prompts([6], seed=1)
    assert unique_prompts([[long, long[:4]]]).source == [0, 1]


@pytest.mark.parametrize("most", [1, 2, 5, 7, 24, 25, 8192])
def test_every_token_once_in_order(most: int) -> None:
    prompts = random_prompts([5, 1, 12, 7], seed=1)
    unique = unique_prompts([prompts[:2], prompts[2:]])
    packed = list(chunks(unique, most))
    assert [len(chunk.ids) for chunk in packed[:-1]] == [most] * (len(packed) - 1)
    assert len(packed[-1].ids) <= most
    for chunk in packed:
        assert sum(span.count for span in chunk.spans) == len(chunk.ids) == len(chunk.positions) == len(chunk.slots)
    ids, slots, positions = (
        torch.cat([getattr(chunk, name) for chunk in packed]) for name in ("ids", "slots", "positions")
    )
    for slot, prompt in enumerate(prompts):
        own = slots == slot
        assert ids[own].tolist() == prompt.tolist()
        assert positions[own].tolist() == list(range(len(prompt)))


@pytest.mark.parametrize("most", [1, 2, 5, 7, 24, 25, 8192])
def test_the_ends_are_the_prompts_last_tokens(most: int) -> None:
    prompts = random_prompts([5, 1, 12, 7], seed=1)
    ends = [(chunk, end) for chunk in chunks(unique_prompts([prompts]), most) for end in chunk.ends]
    assert [(int(chunk.slots[end]), int(chunk.positions[end])) for chunk, end in ends] == [
        (slot, len(prompt) - 1) for slot, prompt in enumerate(prompts)
    ]


def test_spans_are_where_the_tokens_are() -> None:
    for chunk in chunks(unique_prompts([random_prompts([5, 1, 12, 7], seed=1)]), 7):
        start = 0
        for span in chunk.spans:
            own = slice(start, start + span.count)
            assert chunk.slots[own].tolist() == [span.row] * span.count
            assert chunk.positions[own].tolist() == list(range(span.start, span.stop))
            start = own.stop


@pytest.mark.parametrize("most", [4, 7, 8192])
def test_segments_are_the_tokens_of_neighbours_with_one_owner(most: int) -> None:
    owners = [-1, -1, 0, 1, 1]
    unique = unique_prompts([random_prompts([5, 1, 12, 7, 3], seed=1)])
    for chunk in chunks(unique, most):
        segments = list(chunk.segments(owners))
        owned = [owner for owner, start, stop in segments for _ in range(start, stop)]
        assert owned == [owners[slot] for slot in chunk.slots.tolist()]
        assert all(one[0] != other[0] and one[2] == other[1] for one, other in pairwise(segments))
