"""How much token_logprobs holds at one time, by vocabulary."""

from collections.abc import Callable

import logprobs_cases as cases
import pytest
import torch
from torch import Tensor

from bench.logprobs import run
from bench.measure import peak_bytes
from genarm_kernels import token_logprobs
from genarm_kernels.logprobs import blocks

N, H = 128, 64
BLOCK = 2**18
VOCABULARIES = (4096, 32000, 128256)


def peak(op: Callable[..., Tensor], V: int, dtype: torch.dtype, mode: str) -> int:
    """Bytes beyond the inputs and, with a trained head, beyond its gradient."""
    hidden, lm_head, token_ids, _ = cases.case(N, V, H, dtype)
    call = lambda: run(op, hidden, lm_head, token_ids, mode, torch.ones(N))  # noqa: E731
    call()
    return peak_bytes(call, torch.device("cpu")) - (V * H * dtype.itemsize if mode == "trained" else 0)


@pytest.mark.parametrize(
    ("dtype", "mode"),
    [(torch.bfloat16, "forward"), (torch.float32, "frozen"), (torch.float32, "trained")],
)
def test_peak_memory_does_not_grow_with_the_vocabulary(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, mode: str
) -> None:
    monkeypatch.setattr(blocks, "CPU_ELEMENTS", BLOCK)
    ours = [peak(token_logprobs, V, dtype, mode) for V in VOCABULARIES]
    # A block, half a megabyte of it in float32 where it is not, rows of hidden states, and what oneDNN packs.
    half = dtype.itemsize == 2
    most = BLOCK * dtype.itemsize + 4 * 2**17 * half + 6 * N * H * 4 + 2 * 2**20 * half
    assert max(ours) <= 1.02 * most
    assert half or max(ours) <= 1.5 * min(ours)


def test_all_logits_grow_with_the_vocabulary() -> None:
    theirs = [peak(cases.plain, V, torch.float32, "frozen") for V in VOCABULARIES]
    for V, bytes_ in zip(VOCABULARIES, theirs, strict=True):
        assert bytes_ >= N * V * 4


def test_a_peak_is_the_most_that_is_held_at_one_time() -> None:
    def call() -> Tensor:
        first = torch.empty(3 * 2**20, dtype=torch.uint8)
        del first
        return torch.empty(2 * 2**20, dtype=torch.uint8).add_(1)[:1].clone()

    assert 3 * 2**20 <= peak_bytes(call, torch.device("cpu")) < 3.1 * 2**20


@pytest.mark.device
@pytest.mark.parametrize("mode", ["forward", "frozen", "trained"])
def test_peak_memory_of_a_gpu_does_not_grow_with_the_vocabulary(mode: str) -> None:
    N, H, peaks, CUDA = 4096, 512, [], "cuda"
    for V in (32000, 128256):
        hidden, lm_head, token_ids, _ = cases.case(N, V, H, torch.bfloat16, CUDA)
        call = lambda t=(hidden, lm_head, token_ids): run(  # noqa: E731
            token_logprobs, *t, mode, torch.ones(N, device=CUDA)
        )
        call()
        peaks.append(peak_bytes(call, torch.device(CUDA)) - (V * H * 2 if mode == "trained" else 0))
    assert max(peaks) <= 1.1 * min(peaks)
    assert max(peaks) <= 2 * 2**24 + 5 * N * H * 2 + 2**20
