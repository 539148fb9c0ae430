"""guided_sample against the eager PyTorch chain and torch.compile of it.

On a GPU every call is replayed from a CUDA graph over inputs that rotate through more than the L2, and each row notes
the microseconds of one call, the bytes of logits it must read, GB/s, and their share of the copy bandwidth measured in
the same run. On a CPU only the library and the eager chain run, at small shapes.

    python -m pytest bench/test_sampling.py --benchmark-json=out/sampling.json
"""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from genarm_kernels import guided_sample, row_seeds

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
DTYPE = torch.bfloat16 if GPU else torch.float32
ROTATE_BYTES = 200e6
FILTERS = {"no filter": {}, "top_k 50 + top_p .9": {"top_k": 50, "top_p": 0.9}}
SHAPES = (
    [(1, 2, 128256), (8, 2, 128256), (64, 2, 128256), (64, 4, 128256), (64, 2, 32000)]
    if GPU
    else [(1, 2, 4096), (8, 2, 4096), (1, 2, 32000), (8, 2, 32000)]
)


def ours(logits: list[Tensor], weights: Tensor, seeds: Tensor, **options: float) -> Tensor:
    return guided_sample(logits, weights, seed=seeds, **options).tokens


def chain(logits: list[Tensor], weights: Tensor, seeds: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """What one writes in PyTorch: a log-softmax a model, their weighted sum, sorted filters, softmax, multinomial."""
    scores = sum(w * z.float().log_softmax(-1) for w, z in zip(weights.unbind(), logits, strict=True))
    if top_k:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -torch.inf)
    if top_p < 1:
        values, order = scores.sort(descending=True)
        probs = values.softmax(-1)
        values = values.masked_fill(probs.cumsum(-1) - probs >= top_p, -torch.inf)
        scores = torch.empty_like(scores).scatter(1, order, values)
    # multinomial's own race, without its validation.
    return (scores.softmax(-1) / torch.empty_like(scores).exponential_()).argmax(-1)


IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {"ours": ours, "eager": chain}
if GPU:
    IMPLEMENTATIONS["compiled"] = torch.compile(chain)


def graphed(calls: list[Callable[[], Tensor]]) -> Callable[[], None]:
    """All calls as one replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            calls[0]()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call() for call in calls]

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()
        assert kept

    return replay


@cache
def copy_bandwidth() -> float:
    """Bytes read and written a second by a device copy, measured here."""
    source = torch.randn(2**28, device=DEVICE)
    target = torch.empty_like(source)
    times = []
    for _ in range(20):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        target.copy_(source)
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop) / 1e3)
    return 2 * source.numel() * source.element_size() / sorted(times)[len(times) // 2]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize(("B", "M", "V"), SHAPES)
def test_sampling(benchmark, B: int, M: int, V: int, filters: str, implementation: str) -> None:
    options, call = FILTERS[filters], IMPLEMENTATIONS[implementation]
    size = M * B * V * DTYPE.itemsize
    sets = max(2, min(64, int(ROTATE_BYTES // size) + 1)) if GPU else 4
    inputs = [[(2 * torch.randn(B, V, device=DEVICE)).to(DTYPE) for _ in range(M)] for _ in range(sets)]
    weights, seeds = torch.linspace(1.0, 0.5, M, device=DEVICE), row_seeds(0, B, DEVICE)
    calls = [lambda z=z: call(z, weights, seeds, **options) for z in inputs]
    if GPU:
        benchmark.pedantic(graphed(calls), rounds=30, warmup_rounds=5)
    else:
        benchmark.pedantic(lambda: [run() for run in calls], rounds=10, warmup_rounds=2)
    seconds = benchmark.stats.stats.median / sets
    benchmark.extra_info.update(
        {"calls": sets, "us_per_call": seconds * 1e6, "bytes": size, "GB/s": size / seconds / 1e9}
    )
    if GPU:
        benchmark.extra_info["share_of_copy"] = size / seconds / copy_bandwidth()
