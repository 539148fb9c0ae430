"""Sampling in C and in torch: the same tokens and results, under the same rules."""

from __future__ import annotations

import group_cases
import normalizer_cases
import pytest
import torch
from kernel_cases import FILTERS, LAYOUTS, assert_agrees, draw_many, make_logits, make_weights
from native_cases import check_groups_have_their_mass
from rule_cases import RULES

from genarm_kernels import GuidedSample, guided_log_probs, guided_sample, row_seeds

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
# V, B, M, dtypes, layout, filters
FAMILIES = [
    (1, 2, 1, (FP32,), "contiguous", "none"),
    (2, 17, 2, (BF16,), "padded rows", "temperature"),
    (17, 5, 8, (FP32,), "offset view", "top_k"),
    (1023, 64, 1, (BF16,), "every other row", "top_p"),
    (1024, 5, 4, (FP32,), "transposed", "min_p"),
    (1025, 17, 2, (BF16,), "contiguous", "base_min_p"),
    (1029, 5, 2, (FP16,), "padded rows", "base_top_p"),
    (4096, 2, 3, (BF16, FP32, FP16), "offset view", "all"),
    (4096, 17, 2, (FP32,), "every other row", "greedy"),
    (33001, 3, 4, (BF16,), "padded rows", "greedy, filtered"),
    (128256, 2, 8, (BF16,), "contiguous", "none"),
    (262144, 1, 1, (FP32,), "contiguous", "all"),
]


def results(family: tuple, bias: bool) -> tuple[GuidedSample, torch.Tensor]:
    V, B, M, dtypes, layout, filters = family
    logits, weights = make_logits(B, V, M, dtypes, layout), make_weights(B, M)
    options = FILTERS[filters] | ({"bias": torch.linspace(-2, 2, V)} if bias else {})
    seeds = {"seed": row_seeds(5, B), "position": torch.arange(B) * 2**31}
    return (
        guided_sample(logits, weights, return_logprobs=True, return_normalizers=True, **options, **seeds),
        guided_log_probs(logits, weights, **options),
    )


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_both_paths_draw_the_same_tokens(family: tuple, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("torch_path")
    by_torch = [results(family, bias) for bias in (False, True)]
    request.getfixturevalue("native_path")
    by_c = [results(family, bias) for bias in (False, True)]
    for (found, ours), (expected, distribution) in zip(by_c, by_torch, strict=True):
        assert torch.equal(found.tokens, expected.tokens) and torch.equal(found.status, expected.status)
        torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=1e-5, atol=3e-5)
        torch.testing.assert_close(found.model_logprobs, expected.model_logprobs, rtol=1e-5, atol=3e-5)
        torch.testing.assert_close(found.log_normalizers, expected.log_normalizers, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(ours, distribution, rtol=1e-5, atol=3e-5)


@pytest.mark.usefixtures("native_path")
def test_every_filter_agrees_with_the_oracle() -> None:
    for options, layout in zip(FILTERS.values(), [*LAYOUTS, *LAYOUTS], strict=True):
        assert_agrees(make_logits(5, 1025, 2, layout=layout), make_weights(5, 2), **options)


@pytest.mark.usefixtures("native_path")
def test_the_rules_hold_in_every_group() -> None:
    for check in (*RULES, *group_cases.CHECKS, *normalizer_cases.CHECKS):
        check("cpu")


@pytest.mark.usefixtures("native_path")
def test_groups_have_their_mass_and_tokens_noise_of_their_own() -> None:
    check_groups_have_their_mass()
    tokens = draw_many([torch.zeros(1, 1025)], [1.0], 64)
    assert len(tokens.unique()) > 32
