"""Systematic resampling against exact fractions, whom it leaves alone, and what it refuses."""

from typing import Any

import particle_cases as cases
import pytest
import torch
from recorded import Recording

import genarm_kernels
from genarm_kernels.reference.particles import offspring


@pytest.mark.parametrize(
    ("P", "N", "spread"), [(0, 4, 1.0), (4, 1, 2.0), (6, 2, 1.0), (6, 16, 2.0), (3, 37, 0.1), (3, 100, 20.0)]
)
def test_agrees_with_the_oracle(P: int, N: int, spread: float, device: str) -> None:
    cases.check_systems(P, N, spread, device)


def test_a_large_system_agrees_too(device: str) -> None:
    found = cases.check_systems(1, 4096, 1.0, device)
    assert bool((found.log_weights == 0).all())


def test_many_systems_side_by_side_agree() -> None:
    cases.check_systems(400, 7)


def test_the_oracle_counts_points_in_pieces() -> None:
    assert offspring([1.0, 2.0, 0.0, 1.0], 0.5) == [1, 2, 0, 1]
    # The points (u + m)/4 for u = 0 are ends of pieces, which belong to the next.
    assert offspring([1.0, 1.0, 1.0, 1.0], 0.0) == [1, 1, 1, 1]
    assert offspring([0.0, 0.5, 3.5, 0.0], 0.75) == [0, 0, 4, 0]


def test_offspring_are_as_many_as_the_weights_say_in_the_mean(device: str) -> None:
    cases.check_expectation(device=device)


def test_survivors_keep_their_slots_and_surplus_goes_in_order(device: str) -> None:
    cases.check_survivors_stay(device)


def test_weights_are_reset_and_their_mean_is_given(device: str) -> None:
    cases.check_weights_are_reset(device)


def test_a_system_is_resampled_when_its_sample_size_is_low_and_it_is_active(device: str) -> None:
    cases.check_who_is_resampled(device)


def test_a_system_that_cannot_be_resampled_stays_as_it_is(device: str) -> None:
    cases.check_what_cannot_be_resampled_stays(device)


def test_no_uniform_brings_back_a_dead_particle(device: str) -> None:
    cases.check_the_ends_of_uniforms(device)


def test_a_system_does_not_depend_on_the_others(device: str) -> None:
    logs, uniforms = cases.make_weights(3, 11).to(device), cases.make_uniforms(3).to(device)
    on = torch.ones(3, dtype=torch.bool, device=device)
    whole = genarm_kernels.resample(logs, uniforms, on, 0.8)
    for p in range(3):
        alone = genarm_kernels.resample(logs[p : p + 1], uniforms[p : p + 1], on[p : p + 1], 0.8)
        assert all(torch.equal(one[0], other[p]) for one, other in zip(alone, whole, strict=True))


def test_systems_may_lie_anywhere(device: str) -> None:
    logs, uniforms = cases.make_weights(6, 5).to(device), cases.make_uniforms(6).to(device)
    on = torch.tensor([True, False, True] * 2, device=device)
    spread = logs.t().contiguous().t(), uniforms.repeat_interleave(2)[::2], on.repeat_interleave(2)[::2]
    below = torch.full((1,), 0.9, dtype=torch.float64, device=device).expand(6)
    for one, other in zip(
        genarm_kernels.resample(*spread, below), genarm_kernels.resample(logs, uniforms, on, 0.9), strict=True
    ):
        assert torch.equal(one, other)


def test_torch_takes_any_number_of_particles() -> None:
    logs, on = cases.make_weights(1, 20_000, 1.0), torch.ones(1, dtype=torch.bool)
    origins = genarm_kernels.resample(logs, torch.tensor([0.25], dtype=torch.float64), on, 1.0).origins[0]
    counts = origins.bincount(minlength=20_000)
    assert bool(((counts - 20_000 * logs[0].softmax(0)).abs() < 1).all())
    assert torch.equal(origins[origins], origins)


def test_a_call_reads_nothing_back_and_writes_to_no_index() -> None:
    # What can be recorded once and replayed on other values in the same tensors, a CUDA graph can capture.
    logs, uniforms, on = cases.make_weights(4, 6), cases.make_uniforms(4), torch.ones(4, dtype=torch.bool)
    with Recording() as recorded:
        found = genarm_kernels.resample(logs, uniforms, on, 0.7)
    logs.copy_(cases.make_weights(4, 6, 4.0, seed=9))
    on[2] = False
    recorded.replay()
    for one, other in zip(found, genarm_kernels.resample(logs, uniforms, on, 0.7), strict=True):
        assert torch.equal(one, other)


def test_torch_s_deterministic_mode_changes_nothing(device: str) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        cases.check_systems(3, 5, device=device)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.device
def test_a_captured_call_is_replayed_on_other_values() -> None:
    logs, uniforms = (one.cuda() for one in (cases.make_weights(4, 6), cases.make_uniforms(4)))
    on = torch.ones(4, dtype=torch.bool, device="cuda")
    genarm_kernels.resample(logs, uniforms, on, 0.7)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = genarm_kernels.resample(logs, uniforms, on, 0.7)
    logs.copy_(cases.make_weights(4, 6, 4.0, seed=9))
    graph.replay()
    for one, other in zip(found, genarm_kernels.resample(logs, uniforms, on, 0.7), strict=True):
        assert torch.equal(one, other)


GOOD = {
    "log_weights": torch.zeros(2, 3).double(), "uniforms": torch.zeros(2).double(),
    "active": torch.ones(2, dtype=torch.bool), "below": 0.5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_weights": torch.zeros(2, 3)}, r"torch.float32 \[2, 3\]: expected float64 \[P, N\]"),
        ({"log_weights": torch.zeros(6).double()}, r"expected float64 \[P, N\]"),
        ({"log_weights": torch.zeros(2, 0).double()}, "N ≥ 1"),
        ({"uniforms": torch.zeros(2)}, r"expected torch.float64 \[2\]"),
        ({"uniforms": torch.zeros(3).double()}, "one per system"),
        ({"active": torch.ones(2)}, r"expected torch.bool \[2\]"),
        ({"below": torch.ones(3).double()}, r"expected torch.float64 \[2\]"),
        ({"below": torch.ones(2)}, r"expected torch.float64 \[2\]"),
        ({"below": float("nan")}, "below is NaN"),
        ({"active": torch.ones(2, dtype=torch.bool, device="meta")}, "move one"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    genarm_kernels.resample(**GOOD)
    with pytest.raises(ValueError, match=message):
        genarm_kernels.resample(**(GOOD | change))
