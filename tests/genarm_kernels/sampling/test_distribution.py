"""What is drawn many times over has the guided distribution."""

import math

import pytest
import torch
from kernel_cases import FILTERS, assert_distributed, draw_many, make_logits

from genarm_kernels import guided_log_probs, reference


@pytest.mark.parametrize(("V", "scale"), [(7, 1.0), (1500, 3.0), (1200, 0.0)])
def test_tokens_have_the_guided_distribution(V: int, scale: float, fast_device: str) -> None:
    logits = [scale * z for z in make_logits(1, V, 2, device=fast_device)]
    log_probs = reference.guided_log_probs(logits, [1.0, 0.7])[0]
    assert_distributed(draw_many(logits, [1.0, 0.7], 8000, seed=1), log_probs)


@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p", "min_p", "all"])
def test_tokens_have_the_filtered_distribution(name: str, torch_path: None) -> None:
    logits = make_logits(1, 1100, 2)
    log_probs = reference.guided_log_probs(logits, [1.0, 0.7], **FILTERS[name])[0]
    assert_distributed(draw_many(logits, [1.0, 0.7], 3000, seed=2, **FILTERS[name]), log_probs)


@pytest.mark.device
@pytest.mark.parametrize("name", ["none", "temperature", "all"])
def test_a_hundred_thousand_tokens_have_the_guided_distribution(name: str) -> None:
    logits = make_logits(1, 5000, 2, device="cuda")
    log_probs = reference.guided_log_probs(logits, [1.0, 0.7], **FILTERS[name])[0]
    tokens = [draw_many(logits, [1.0, 0.7], 20000, seed=seed, **FILTERS[name]) for seed in range(5)]
    assert_distributed(torch.cat(tokens), log_probs)


def test_a_head_draws_as_often_as_its_tail_leaves_it(fast_device: str) -> None:
    # One id 8.3 above 4,095 equal others: half of the mass is in a tail of ids that are each drawn once in 8,000 times.
    logits = torch.zeros(1, 4096, device=fast_device)
    logits[0, 1500] = math.log(4095)
    tokens = draw_many([logits], [1.0], 6000, seed=3).cpu()
    assert abs(int((tokens == 1500).sum()) - 3000) < 6 * math.sqrt(1500)
    tail = torch.bincount(tokens[tokens != 1500] // 256, minlength=16).double()
    mean = tail.sum() / 16
    assert float(((tail - mean) ** 2 / mean).sum()) < 15 + 10 * math.sqrt(30)


def test_positions_draw_the_distribution_as_seeds_do(fast_device: str) -> None:
    logits = make_logits(1, 30, 1, device=fast_device)
    positions = torch.arange(8000, device=fast_device)
    tokens = draw_many(logits, [1.0], 8000, seed=torch.full_like(positions, 4), position=positions)
    assert_distributed(tokens, guided_log_probs(logits, [1.0])[0])
