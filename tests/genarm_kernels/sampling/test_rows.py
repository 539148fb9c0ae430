"""A row's result is bitwise the same alone, at every place of any batch, and whatever the other rows hold."""

import pytest
import torch
from kernel_cases import LAYOUTS, assert_same_bits, make_logits, make_weights, rows_of
from torch import Tensor

from genarm_kernels import GuidedSample, guided_log_probs, guided_sample, row_seeds

B, CUDA = 64, "cuda"
PLAIN = {"seed": row_seeds(3, B), "position": torch.arange(B)}
FILTERED = PLAIN | {
    "temperature": torch.tensor([1.0, 0.0, 0.7, 1.5] * 16),
    "top_k": torch.tensor([0, 5, 0, 50, 1] * 13)[:B],
    "top_p": torch.tensor([1.0, 0.9, 1.0] * 22)[:B],
    "min_p": torch.tensor([0.0, 0.0, 0.0, 0.05] * 16),
    "base_min_p": torch.tensor([0.0, 0.0, 0.01] * 22)[:B],
    "base_top_p": torch.tensor([1.0, 1.0, 1.0, 1.0, 0.95] * 13)[:B],
}
MATES = {"plain": PLAIN, "filtered": FILTERED}


def batch(V: int, **options: object) -> tuple[list[Tensor], Tensor]:
    """Logits and weights, with masks, a NaN, an infinity and a row of no logit at all."""
    logits, weights = make_logits(B, V, 2, layout="padded rows", **options), make_weights(B, 2)
    logits[0][3, 1:] = -torch.inf
    logits[0][9, V // 2], logits[1][12, V - 1] = torch.nan, torch.inf
    logits[1][20] = -torch.inf
    return logits, weights.to(logits[0].device)


def sample(logits: list[Tensor], weights: Tensor, options: dict[str, Tensor], rows: Tensor | slice) -> GuidedSample:
    cut = {name: value[rows] for name, value in options.items()}
    cut["return_logprobs"] = cut["return_normalizers"] = True
    return guided_sample([z[rows] for z in logits], weights[rows], **cut)


def assert_rows_are_those_of(
    whole: GuidedSample, logits: list[Tensor], weights: Tensor, options: dict[str, Tensor], rows: Tensor
) -> None:
    assert_same_bits(sample(logits, weights, options, rows), rows_of(whole, rows))


@pytest.mark.parametrize(
    ("V", "mates", "path"),
    [(5, "filtered", "torch"), (1500, "filtered", "torch"), (1500, "plain", "torch"),
     (5, "plain", "native"), (1500, "filtered", "native"), (4096, "plain", "native")],
)  # fmt: skip
def test_a_row_is_the_same_alone_and_at_every_place_of_17(
    V: int, mates: str, path: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(f"{path}_path")
    call = *batch(V), MATES[mates]
    whole = sample(*call, torch.arange(B))
    assert (whole.status[[9, 12, 20]] != 0).all()
    for rows in torch.arange(B).split(1):
        assert_rows_are_those_of(whole, *call, rows)
    # Turned by one row at a time, every row has every place; of 64 by nine at a time.
    for size, step in ((17, 1), (B, 9)):
        for turn in range(0, size, step):
            assert_rows_are_those_of(whole, *call, torch.arange(size).roll(turn))


@pytest.mark.usefixtures("cpu_path")
def test_a_row_of_a_large_vocabulary_does_not_depend_on_its_batch() -> None:
    logits, weights = batch(40000)
    options = {name: value[:17] for name, value in FILTERED.items()}
    whole = sample(logits, weights, options, torch.arange(17))
    distribution = {name: value for name, value in options.items() if name not in PLAIN}
    log_probs = guided_log_probs([z[:17] for z in logits], weights[:17], **distribution)
    for rows in (*torch.arange(17).split(1), torch.arange(4, 9), torch.arange(17).flip(0)):
        assert_rows_are_those_of(whole, logits, weights, options, rows)
    for rows in torch.arange(17).split(1):
        cut = {name: value[rows] for name, value in distribution.items()}
        alone = guided_log_probs([z[rows] for z in logits], weights[rows], **cut)
        assert torch.equal(alone.view(torch.int32), log_probs[rows].view(torch.int32))


@pytest.mark.interpreter
def test_the_kernels_give_a_row_the_same_bits_alone() -> None:
    logits, weights = make_logits(3, 5, 2, layout="padded rows"), make_weights(3, 2)
    options = {name: value[1:4] for name, value in FILTERED.items()}
    whole = sample(logits, weights, options, slice(None))
    for rows in torch.arange(3).split(1):
        assert_rows_are_those_of(whole, logits, weights, options, rows)


@pytest.mark.device
@pytest.mark.parametrize("mates", MATES)
@pytest.mark.parametrize("V", [50257, 128256])
def test_a_row_on_a_gpu_does_not_depend_on_its_batch_stride_or_offset(V: int, mates: str) -> None:
    logits = make_logits(B, V, 2, (torch.bfloat16,), device=CUDA)
    weights = make_weights(B, 2, device=CUDA)
    options = {name: value.to(CUDA) for name, value in MATES[mates].items()}
    whole = sample(logits, weights, options, slice(None))
    for size in (1, 17):
        for start in (0, 1, 13, 46):
            rows = slice(start, start + size)
            cut = {name: value[rows] for name, value in options.items()}
            for copy in LAYOUTS.values():
                cut["return_logprobs"] = cut["return_normalizers"] = True
                part = guided_sample([copy(z[rows]) for z in logits], weights[rows], **cut)
                assert_same_bits(part, rows_of(whole, rows))


@pytest.mark.device
def test_a_row_on_a_gpu_has_every_place_of_a_batch_among_rows_that_need_rules() -> None:
    logits, weights = batch(50257, dtypes=(torch.bfloat16,), device=CUDA)
    call = logits, weights, {"seed": row_seeds(3, B, CUDA)}
    whole = sample(*call, slice(None))
    assert (whole.status != 0).nonzero()[:, 0].tolist() == [9, 12, 20]
    for size in (1, 17, B):
        for turn in range(B):
            assert_rows_are_those_of(whole, *call, torch.arange(B, device=CUDA).roll(turn)[:size])
