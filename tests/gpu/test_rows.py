"""A row on a GPU is bitwise the same in any batch, stride, offset and split."""

import pytest
import torch
from kernel_cases import LAYOUTS, assert_same_bits, make_logits, make_weights

from genarm_kernels import GuidedSample, guided_sample, row_seeds
from genarm_kernels.sampling import combine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT RUN: this machine has no CUDA device")
CUDA = "cuda"


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("V", [50257, 128256])
def test_a_row_does_not_depend_on_its_batch_stride_or_offset(V: int, filtered: bool) -> None:
    B = 64
    logits = make_logits(B, V, 2, (torch.bfloat16,), device=CUDA)
    weights = make_weights(B, 2, device=CUDA)
    options = {"seed": row_seeds(3, B, CUDA), "position": torch.arange(B, device=CUDA)}
    if filtered:
        rows = torch.arange(B, device=CUDA)
        options |= {
            "temperature": (rows % 4) * 0.5,
            "top_k": (rows % 3) * 20,
            "top_p": torch.where(rows % 2 == 0, 1.0, 0.9),
            "base_min_p": torch.where(rows % 5 == 0, 0.01, 0.0),
        }
    whole = guided_sample(logits, weights, return_logprobs=True, **options)
    for size in (1, 17):
        for start in (0, 1, 13, 46):
            rows = slice(start, start + size)
            cut = {name: value[rows] for name, value in options.items()}
            expected = GuidedSample(*(x[rows] for x in whole))
            for copy in LAYOUTS.values():
                part = guided_sample([copy(z[rows]) for z in logits], weights[rows], return_logprobs=True, **cut)
                assert_same_bits(part, expected)


def test_a_row_has_every_place_of_a_batch_among_rows_that_need_rules() -> None:
    B, V = 64, 50257
    logits = make_logits(B, V, 2, (torch.bfloat16,), device=CUDA)
    logits[0][3, 1:], logits[1][20] = -torch.inf, -torch.inf
    logits[0][9, V // 2], logits[1][12, V - 1] = torch.nan, torch.inf
    weights, seeds = make_weights(B, 2, device=CUDA), row_seeds(3, B, CUDA)

    def sample(rows: torch.Tensor) -> GuidedSample:
        return guided_sample([z[rows] for z in logits], weights[rows], seed=seeds[rows], return_logprobs=True)

    whole = sample(torch.arange(B, device=CUDA))
    assert (whole.status != 0).nonzero()[:, 0].tolist() == [9, 12, 20]
    for size in (1, 17, B):
        for turn in range(B):
            rows = torch.arange(B, device=CUDA).roll(turn)[:size]
            assert_same_bits(sample(rows), GuidedSample(*(x[rows] for x in whole)))


def test_a_row_may_be_split_in_any_way(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = make_logits(3, 128256, 2, (torch.bfloat16,), device=CUDA)
    logits[0][1, 70000] = torch.nan
    samples = []
    for count in (1, 2, 3, 8):
        monkeypatch.setattr(combine, "groups_a_program", lambda B, G, count=count: count)
        samples.append(guided_sample(logits, [1.0, 0.5], return_logprobs=True))
    for other in samples[1:]:
        assert_same_bits(samples[0], other)


def test_wide_and_narrow_loads_give_the_same_bits() -> None:
    V = 50264
    for dtypes in ((torch.bfloat16,), (torch.bfloat16, torch.float32)):
        logits = make_logits(3, V, 2, dtypes, device=CUDA)
        logits[0][1, 5:3000], logits[1][2, 40000] = -torch.inf, torch.inf
        weights = torch.tensor([[1.0, 0.5], [1.0, 0.0], [1.0, -0.5]], device=CUDA)
        for options in ({}, {"top_k": 500, "top_p": 0.9, "base_min_p": 1e-4}):
            narrow = [LAYOUTS["offset view"](z) for z in logits]
            samples = [guided_sample(z, weights, seed=5, return_logprobs=True, **options) for z in (logits, narrow)]
            assert_same_bits(*samples)
