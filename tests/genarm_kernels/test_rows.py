"""A row's result is bitwise the same alone, at every place of any batch, and whatever the other rows hold."""

import group_cases
import pytest
import torch
from kernel_cases import assert_same_bits, make_logits, make_weights
from torch import Tensor

from genarm_kernels import GuidedSample, guided_log_probs, guided_sample, row_seeds

pytestmark = pytest.mark.usefixtures("cpu_path")
B = 64
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


def batch(V: int) -> tuple[list[Tensor], Tensor]:
    """Logits and weights, with masks, a NaN, an infinity and a row of no logit at all."""
    logits, weights = make_logits(B, V, 2, layout="padded rows"), make_weights(B, 2)
    logits[0][3, 1:] = -torch.inf
    logits[0][9, V // 2], logits[1][12, V - 1] = torch.nan, torch.inf
    logits[1][20] = -torch.inf
    return logits, weights


def sample(logits: list[Tensor], weights: Tensor, options: dict[str, Tensor], rows: Tensor) -> GuidedSample:
    cut = {name: value[rows] for name, value in options.items()}
    return guided_sample([z[rows] for z in logits], weights[rows], return_logprobs=True, **cut)


@pytest.mark.parametrize("mates", MATES)
@pytest.mark.parametrize("V", [5, 1500, 4096])
def test_a_row_is_the_same_alone_and_at_every_place_of_17_and_64(V: int, mates: str) -> None:
    logits, weights = batch(V)
    options = MATES[mates]
    whole = sample(logits, weights, options, torch.arange(B))
    assert [(x[[9, 12, 20]] != 0).tolist() for x in whole[3:]] == [[True] * 3]
    for b in range(B):
        rows = torch.tensor([b])
        assert_same_bits(sample(logits, weights, options, rows), GuidedSample(*(x[rows] for x in whole)))
    # Turned by one row at a time, every row has every place.
    for size in (17, B):
        for turn in range(size):
            rows = torch.arange(size).roll(turn)
            assert_same_bits(sample(logits, weights, options, rows), GuidedSample(*(x[rows] for x in whole)))


@pytest.mark.parametrize("mates", MATES)
def test_a_row_of_a_large_vocabulary_does_not_depend_on_its_batch(mates: str) -> None:
    logits, weights = batch(40000)
    options = {name: value[:17] for name, value in MATES[mates].items()}
    whole = sample(logits, weights, options, torch.arange(17))
    distribution = {name: value for name, value in options.items() if name not in PLAIN}
    log_probs = guided_log_probs([z[:17] for z in logits], weights[:17], **distribution)
    for rows in (*torch.arange(17).split(1), torch.arange(4, 9), torch.arange(17).flip(0)):
        assert_same_bits(sample(logits, weights, options, rows), GuidedSample(*(x[rows] for x in whole)))
    for rows in torch.arange(17).split(1):
        cut = {name: value[rows] for name, value in distribution.items()}
        alone = guided_log_probs([z[rows] for z in logits], weights[rows], **cut)
        assert torch.equal(alone.view(torch.int32), log_probs[rows].view(torch.int32))


@pytest.mark.parametrize("check", group_cases.CHECKS, ids=lambda check: check.__name__)
def test_check(check) -> None:
    check()
