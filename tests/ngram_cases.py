"""Cases and checks of prompt lookup, for every path it takes: torch on a CPU, the interpreter, a GPU."""

from __future__ import annotations

import random

import pytest
import torch

import genarm_kernels
from genarm_kernels import reference
from genarm_kernels.step import ngram

FILLING = 9


def look_up(texts: list[list[int]], gamma: int, device: str = "cpu", behind: int = 2) -> list[list[int]]:
    """Each row's drafts, held against the oracle's; ``behind``: columns of filling behind the longest text."""
    T = max(map(len, texts), default=0) + behind
    table = torch.tensor([text + [FILLING] * (T - len(text)) for text in texts], dtype=torch.int64).view(len(texts), T)
    ends = torch.tensor([len(text) for text in texts], dtype=torch.int64)
    expected = reference.ngram_draft(table, ends, gamma)
    found = genarm_kernels.ngram_draft(table.to(device), ends.to(device), gamma)
    for own, truth in zip(found, expected, strict=True):
        assert own.dtype == truth.dtype and torch.equal(own.cpu(), truth)
    counts = found[1].tolist()
    assert set(counts) <= {0, gamma} and not found[0][found[1] == 0].any()
    return [draft[:count] for draft, count in zip(found[0].tolist(), counts, strict=True)]


def check_which_match(device: str = "cpu") -> None:
    """The longest of up to four tokens before the latest, the latest of as long ones, and none of one token."""
    assert look_up([[1, 2, 3, 5, 0, 2, 3, 6, 1, 2, 3]], 1, device) == [[5]]
    assert look_up([[1, 2, 5, 1, 2, 6, 0, 1, 2]], 2, device) == [[6, 0]]
    assert look_up([[1, 2, 3, 4, 5, 0, 2, 3, 4, 6, 1, 2, 3, 4]], 1, device) == [[5]]
    # Four with a gap are fewer than two.
    assert look_up([[1, 2, 9, 4, 5, 0, 3, 4, 6, 1, 2, 3, 4]], 1, device) == [[6]]
    # A fifth token makes no match longer.
    assert look_up([[7, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 6, 7, 1, 2, 3, 4]], 1, device) == [[6]]
    assert look_up([[2, 5, 3, 2], [1, 2, 3, 4], [1, 2, 3, 1, 2]], 3, device) == [[], [], [3, 1, 2]]


def check_where_a_copy_ends(device: str = "cpu") -> None:
    """It goes on with itself, whole periods long."""
    assert look_up([[5, 1, 2, 3, 1, 2]], 8, device) == [[3, 1, 2, 3, 1, 2, 3, 1]]
    assert look_up([[0, 7, 7, 7], [3, 1, 2, 1, 2], [1, 2, 1, 2, 1]], 3, device) == [[7, 7, 7], [1, 2, 1], [2, 1, 2]]


def check_short_texts(device: str = "cpu") -> None:
    """Nothing before a text's begin, nor behind its end, is part of it."""
    texts = [[], [1], [1, 1], [1, 1, 1], [FILLING] * 3, [2, FILLING, FILLING], [FILLING, 2, FILLING]]
    assert look_up(texts, 2, device, behind=4) == [[], [], [], [1, 1], [FILLING] * 2, [], []]
    for behind in (0, 1):
        assert look_up([[1, 1, 1], [1, 1]], 2, device, behind) == [[1, 1], []]
        assert look_up([[], []], 2, device, behind) == [[], []]
        assert look_up([[3, 3], [3]], 2, device, behind) == [[], []]
    assert look_up([], 2, device) == []


def check_random(B: int = 24, device: str = "cpu", most: int = 30) -> None:
    """Texts of two and three ids, where matches of every length are everywhere."""
    chance = random.Random(B)
    for gamma in (1, 5):
        look_up(
            [[chance.randrange(2 + row % 2) for _ in range(chance.randrange(most))] for row in range(B)], gamma, device
        )


def check_several_programs(device: str = "cpu") -> None:
    """Matches that begin in one program's columns and end in another's; the best of all programs'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram, "COLUMNS", 4)
        check_random(8, device)
        assert look_up([[0, 0, 1, 2, 3, 4, 5, 0, 3, 4, 6, 0, 7, 1, 2, 3, 4]], 2, device) == [[5, 0]]


CHECKS = (check_which_match, check_where_a_copy_ends, check_short_texts, check_random, check_several_programs)
