"""What the suites measure of particles: torch's operations and ours do the same."""

from __future__ import annotations

from dataclasses import replace

import torch

from bench.particles import followed, make_population, make_tails, resampled

CPU = torch.device("cpu")


def test_both_ways_resample_to_the_same_origins() -> None:
    torch.manual_seed(0)
    systems = make_population(5, 16, CPU)
    origins = resampled("ours")(systems)
    assert torch.equal(origins, resampled("torch")(systems))
    assert not torch.equal(origins, torch.arange(16).expand(5, -1))  # all were due


def test_both_ways_leave_the_same_cache_and_count_what_they_moved() -> None:
    torch.manual_seed(0)
    one = make_tails(2, 3, 8, 2, 4, start=5, tail=3, device=CPU)
    before = one.cache.clone()
    other = replace(one, cache=one.cache.clone())
    assert torch.equal(followed("ours", 5)(one), followed("torch", 5)(other))
    changed = (one.cache != before).any(5).any(3).any(0).any(0)  # [R, T]
    assert changed[:, 5:].any(1).tolist() == ([False] * 4 + [True] * 4) * 3 and not changed[:, :5].any()
    assert one.moved_bytes == 2 * (12 * 3) * (2 * 2 * 2 * 4) * 2  # read and written, bfloat16
