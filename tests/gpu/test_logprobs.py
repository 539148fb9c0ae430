"""token_logprobs on a GPU: the interpreter's checks, real sizes, no wait for the device, graphs, memory."""

from collections.abc import Callable

import logprobs_cases as cases
import pytest
import torch
from torch import Tensor

from bench.logprobs import BUILDERS, missing, run
from bench.measure import peak_bytes
from genarm_kernels import reference, token_logprobs

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT RUN: this machine has no CUDA device")
CUDA = "cuda"


@pytest.mark.parametrize("check", [*cases.CHECKS, *cases.KERNEL_CHECKS], ids=lambda check: check.__name__)
def test_check(check: Callable[[str], None]) -> None:
    check(CUDA)


@pytest.mark.parametrize("dtype", cases.DTYPES[:3], ids=str)
@pytest.mark.parametrize("V", [32000, 50257, 128256, 151936])
def test_no_further_from_the_truth_than_torch(V: int, dtype: torch.dtype) -> None:
    for N in (1, 33, 300):
        cases.no_further_from_the_truth_than_torch(N, V, 128, dtype, CUDA, bias=V % 2 == 1)


def test_rows_may_lie_beyond_2_to_the_31_logits() -> None:
    if torch.cuda.mem_get_info()[0] < 30e9:
        pytest.skip("NOT RUN: 30 GB of free memory are needed")
    hidden = torch.randn(2**19 + 20000, 4096, device=CUDA, dtype=torch.bfloat16)
    lm_head = torch.randn(4000, 4096, device=CUDA, dtype=torch.bfloat16) / 64
    token_ids = torch.randint(4000, (len(hidden),), device=CUDA)
    # A block has as many logits as there are hidden states: one block here, its last rows beyond 2³¹.
    found = token_logprobs(hidden, lm_head, token_ids)
    for rows in (slice(0, 50), slice(len(hidden) - 50, len(hidden))):
        exact = reference.token_logprobs(hidden[rows], lm_head, token_ids[rows])
        torch.testing.assert_close(found[rows].double(), exact, rtol=2e-2, atol=5e-2)


def test_nothing_waits_for_the_device() -> None:
    tensors = cases.case(40, 3000, 64, torch.bfloat16, CUDA)
    grads = torch.ones(40, device=CUDA)

    def call() -> list[Tensor]:
        hidden, lm_head, token_ids, bias = tensors
        return cases.results(token_logprobs, hidden, lm_head, bias, grads=grads, token_ids=token_ids)

    call()
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_a_replayed_graph_follows_its_inputs() -> None:
    hidden, lm_head, token_ids, _ = cases.case(40, 3000, 64, torch.bfloat16, CUDA)
    token_logprobs(hidden, lm_head, token_ids)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logprobs = token_logprobs(hidden, lm_head, token_ids)
    for seed in (4, 5):
        other = cases.case(40, 3000, 64, torch.bfloat16, CUDA, seed)
        hidden.copy_(other.hidden)
        token_ids.copy_(other.token_ids)
        graph.replay()
        torch.testing.assert_close(logprobs, token_logprobs(hidden, lm_head, token_ids), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("mode", ["forward", "frozen", "trained"])
def test_peak_memory_does_not_grow_with_the_vocabulary(mode: str) -> None:
    N, H, peaks = 4096, 512, []
    for V in (32000, 128256):
        hidden, lm_head, token_ids, _ = cases.case(N, V, H, torch.bfloat16, CUDA)
        call = lambda t=(hidden, lm_head, token_ids): run(  # noqa: E731
            token_logprobs, *t, mode, torch.ones(N, device=CUDA)
        )
        call()
        peaks.append(peak_bytes(call, torch.device(CUDA)) - (V * H * 2 if mode == "trained" else 0))
    assert max(peaks) <= 1.1 * min(peaks)
    assert max(peaks) <= 2 * 2**24 + 5 * N * H * 2 + 2**20


@pytest.mark.parametrize("mode", ["frozen", "trained"])
@pytest.mark.parametrize("way", ["liger", "liger-sum"])
def test_liger_s_results_are_the_same(way: str, mode: str) -> None:
    if reason := missing(way, torch.device(CUDA)):
        pytest.skip(f"NOT RUN: {reason}")
    hidden, lm_head, token_ids, _ = cases.case(200, 3000, 128, torch.float32, CUDA)
    ones = torch.ones(200, device=CUDA)
    ours, theirs = (run(BUILDERS[name](), hidden, lm_head, token_ids, mode, ones) for name in ("ours", way))
    for value, right in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(value, right, rtol=2e-2, atol=2e-2)
