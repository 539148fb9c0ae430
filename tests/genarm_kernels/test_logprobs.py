"""token_logprobs against its oracle and against plain torch."""

import pytest
import torch
from torch import Tensor

from genarm_kernels import reference, token_logprobs


def case(N: int, V: int, H: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, H, generator=generator, dtype=torch.float64).to(dtype)
    lm_head = torch.randn(V, H, generator=generator, dtype=torch.float64).to(dtype)
    bias = torch.randn(V, generator=generator, dtype=torch.float64).to(dtype)
    token_ids = torch.randint(V, (N,), generator=generator)
    token_ids[::3] = -100
    return hidden, lm_head, token_ids, bias


@pytest.mark.parametrize("V", [1, 2, 15, 17, 1023, 32000, 50257, 128256])
def test_log_probs_are_the_oracles(V: int) -> None:
    hidden, lm_head, token_ids, bias = case(5, V, 16, torch.float32)
    for b in (None, bias):
        ours = token_logprobs(hidden, lm_head, token_ids, b)
        assert ours.dtype == torch.float32
        exact = reference.token_logprobs(hidden, lm_head, token_ids, b)
        torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    hidden, lm_head, token_ids, bias = (t.requires_grad_(t.is_floating_point()) for t in case(7, 11, 5, torch.float64))
    assert torch.autograd.gradcheck(lambda h, w, b: token_logprobs(h, w, token_ids, b), (hidden, lm_head, bias))
