"""Particles in captured steps: what is replayed chooses anew which rows go on, on a GPU as where a CPU records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genarm import GenerationOutput, GuidedDecoder
from genarm_kernels import follow_rows, reference, resample

# A step -> what runs it again, and the tensors that it fills
Capture = Callable[[Callable[[], list[Tensor]]], tuple[Callable[[], object], list[Tensor]]]
OPTIONS: dict[str, Any] = {
    "particles": 4, "return_particles": True, "return_normalizers": True, "return_logprobs": True,
    "max_new_tokens": 7, "seed": 3, "eos_token_id": list(range(3, 15)),
}  # fmt: skip
# Always, where weights are uneven, and never: values that one capture serves.
CHANGES: list[dict[str, Any]] = [
    {"resample_below": 1.0},
    {"resample_below": 0.9, "seed": 4},
    {"resample_below": 0.0},
    {"resample_below": 1.0, "resample_every": 3, "length_bonus": 0.5},
]


def texts(out: GenerationOutput) -> list[list[list[int]]]:
    assert out.particles is not None
    return [[tokens.tolist() for tokens in system.tokens] for system in out.particles]


def check_captured_particles(captured: GuidedDecoder, eager: GuidedDecoder, prompts: list[Tensor]) -> None:
    """Two systems on one capture per kind of call; weights and evidence as well as every particle's tokens."""
    seen = set()
    for change in [*CHANGES, CHANGES[0]]:
        found, expected = (decoder.generate(prompts, **OPTIONS | change) for decoder in (captured, eager))
        assert texts(found) == texts(expected) and torch.equal(found.sequences, expected.sequences)
        seen.add(str(texts(found)))
        close(found.log_evidence, expected.log_evidence)
        for ours, theirs in zip(found.particles or [], expected.particles or [], strict=True):
            close(ours.log_weights, theirs.log_weights)
    assert len(seen) == len(CHANGES)
    assert captured.engine.captures == 1 and "CUDA graphs" in found.stats.engine


def check_captured_normalizers(captured: GuidedDecoder, eager: GuidedDecoder, prompts: list[Tensor]) -> None:
    """log Z = Σ_m w_m log p_m(y) − log q(y) at temperature 1, whatever token was drawn."""
    options = {name: value for name, value in OPTIONS.items() if "particles" not in name}
    for weight in (1.0, -0.5):
        weights = dict.fromkeys(captured.reward_names, weight)
        found, expected = (one.generate(prompts, weights=weights, **options) for one in (captured, eager))
        close(found.log_normalizers, expected.log_normalizers)
        assert found.model_logprobs is not None and found.logprobs is not None
        factors = found.model_logprobs.new_tensor([1.0] + [weight] * len(weights))
        close(found.log_normalizers, (found.model_logprobs * factors).sum(2) - found.logprobs)
    assert captured.engine.captures == 1


def check_a_captured_resampling_follows_its_weights(capture: Capture, device: str) -> None:
    """One graph of a resampling and of the cache rows that follow, over other weights, uniforms and lengths."""
    P, N, T = 2, 4, 6
    weights = torch.zeros(P, N, dtype=torch.float64, device=device)
    uniforms, below = (torch.full((P,), value, dtype=torch.float64, device=device) for value in (0.5, 0.6))
    active = torch.ones(P, dtype=torch.bool, device=device)
    starts, lengths = (torch.full((P * N,), value, dtype=torch.int32, device=device) for value in (1, 3))
    cache = torch.zeros(2, 2, P * N, 2, T, 8, device=device)
    first = torch.arange(P, device=device)[:, None] * N

    def step() -> list[Tensor]:
        found = resample(weights, uniforms, active, below)
        follow_rows(cache, (found.origins + first).flatten(), starts, lengths)
        return [*found]

    replay, results = capture(step)
    moved = set()
    for turn, length in enumerate((2, 6, 4)):
        generator = torch.Generator().manual_seed(turn)
        weights.copy_(3 * torch.randn(P, N, generator=generator, dtype=torch.float64))
        uniforms.copy_(torch.rand(P, generator=generator, dtype=torch.float64))
        active[1] = turn > 0
        lengths.fill_(length)
        before = torch.randn(cache.shape, generator=generator)
        cache.copy_(before)
        replay()
        expected = reference.resample(*(one.cpu() for one in (weights, uniforms, active, below)))
        assert torch.equal(results[0].cpu(), expected.origins)
        for ours, theirs in zip(results[1:], expected[1:], strict=True):
            torch.testing.assert_close(ours.cpu(), theirs, atol=1e-12, rtol=1e-12)
        rows = (expected.origins + torch.arange(P)[:, None] * N).flatten()
        before[:, :, :, :, 1:length] = before[:, :, rows, :, 1:length]
        assert torch.equal(cache.cpu(), before)
        moved.add(tuple(rows.tolist()))
    assert len(moved) == 3


def close(found: Tensor | None, expected: Tensor | None) -> None:
    assert found is not None and expected is not None
    torch.testing.assert_close(found, expected.to(found.dtype), atol=2e-4, rtol=1e-4, equal_nan=True)
