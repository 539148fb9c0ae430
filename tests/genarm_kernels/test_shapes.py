"""Every vocabulary, batch and number of models against the oracle on a CPU."""

import pytest
import torch
from kernel_cases import DTYPES, assert_agrees, make_logits, make_weights

from genarm_kernels import guided_sample, reference, row_seeds

# Oracles take a second for some 10 million logits: large vocabularies meet large batches and many models in turn.
LARGE = [
    (32000, 64, 1),
    (32000, 2, 8),
    (33001, 3, 3),
    (50257, 17, 2),
    (50257, 1, 4),
    (128256, 1, 1),
    (128256, 2, 8),
    (128256, 17, 2),
    (151936, 2, 2),
    (151936, 1, 4),
    (262144, 1, 1),
    (262144, 2, 4),
]


@pytest.mark.parametrize("M", [1, 2, 4, 8])
@pytest.mark.parametrize("B", [1, 2, 17, 64])
@pytest.mark.parametrize("V", [1, 2, 15, 17, 1023, 1024, 1025])
def test_agrees_with_the_oracle_at_every_shape(V: int, B: int, M: int) -> None:
    assert_agrees(make_logits(B, V, M), make_weights(B, M))


@pytest.mark.parametrize(("V", "B", "M"), LARGE)
def test_draws_the_oracle_s_tokens_at_large_vocabularies(V: int, B: int, M: int) -> None:
    logits, weights, seeds = make_logits(B, V, M, DTYPES), make_weights(B, M), row_seeds(5, B)
    ours = guided_sample(logits, weights, seed=seeds, position=9, return_logprobs=True)
    theirs = reference.guided_sample(logits, weights, seed=seeds, position=9, return_logprobs=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize(("V", "B", "M"), [(128256, 1, 2), (262144, 1, 1)])
def test_agrees_with_the_oracle_under_all_filters_at_large_vocabularies(V: int, B: int, M: int) -> None:
    filters = {"temperature": 0.9, "top_k": 5000, "top_p": 0.9, "min_p": 1e-4, "base_top_p": 0.99}
    assert_agrees(make_logits(B, V, M), make_weights(B, M), **filters)
