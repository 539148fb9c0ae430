"""The element-wise steps of a decoder layer at Llama-3.1-8B's sizes, against torch.compile of the same; and what
particles need between two steps, against torch's operations.

    python -m pytest bench/test_steps.py -m "not full"

`bytes` is what must move: z, the result and what else a step reads and writes, and each used adapter's B once;
`share_of_copy` is that over the time and the copy bandwidth measured beside it. K is the number of adapters, whose rows
take turns with rows that have none. Without a GPU it measures the CPU paths at small sizes, uncompiled.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench import measure
from bench.measure import DEVICE, GPU
from bench.particles import followed, make_population, make_tails, resampled
from genarm_kernels import Lora, add_rms_norm, rotary_store, swiglu
from genarm_kernels.layer.lora import expand

DTYPE = torch.bfloat16
HIDDEN, H, H_KV, D, WIDTH, T = (4096, 32, 8, 128, 14336, 512) if GPU else (1024, 16, 4, 64, 2816, 256)
RANK, EPS = 16, 1e-5
LAYERS, START = (32 if GPU else 12), 64
WIDTHS = {"norm": (HIDDEN,), "rotary": (H * D, H_KV * D, H_KV * D), "swiglu": (WIDTH, WIDTH)}
ROWS = (1, 2, 4, 8, 16, 32, 64) if GPU else (1, 2, 4, 8)
ADAPTERS = (0, 1, 3)
CASES = list(itertools.product(WIDTHS, ROWS, ADAPTERS, ("ours", "compiled")))


def is_short(step: str, R: int, K: int, way: str) -> bool:
    """Whether a case is measured where time is short: every one of torch.compile's takes seconds to compile."""
    return not GPU or way == "ours" or (R in (1, 16, 64) and K != 1)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What one call of a step takes."""

    z: Tensor
    residual: Tensor
    weight: Tensor
    cos: Tensor
    sin: Tensor
    positions: Tensor
    key_cache: Tensor
    value_cache: Tensor
    lora: Lora | None


def make_inputs(step: str, R: int, K: int) -> Inputs:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=DEVICE).to(DTYPE)

    widths = WIDTHS[step]
    rows = torch.arange(R, device=DEVICE)
    lora = None
    if K:
        lora = Lora(normal(K, sum(widths), RANK) / 4, (K - 1 - rows % (K + 1)).to(torch.int32), widths)
        # Peers read these, and must not make them inside a graph.
        _ = lora.dense, lora.mask
    store = torch.zeros(2, R if step == "rotary" else 1, H_KV, T, D, device=DEVICE, dtype=DTYPE)
    angles = torch.rand(T, D // 2, device=DEVICE)
    z = normal(R, sum(widths) + (0 if lora is None else lora.shrinks))
    keys, values = store.transpose(2, 3)
    return Inputs(
        z, normal(R, HIDDEN), normal(HIDDEN), angles.cos(), angles.sin(), rows * 7 % T, keys, values, lora
    )  # fmt: skip


def ours(step: str, x: Inputs) -> Tensor:
    if step == "norm":
        return add_rms_norm(x.z, x.residual, x.weight, EPS, x.lora)
    if step == "swiglu":
        return swiglu(x.z, x.lora)
    return rotary_store(x.z, x.cos, x.sin, x.positions, x.key_cache, x.value_cache, H, x.lora)


def plain(
    step: str, total: Tensor, residual: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, positions: Tensor,
    key_cache: Tensor, value_cache: Tensor,
) -> Tensor:  # fmt: skip
    """What one writes in torch once the expand has been added."""
    if step == "norm":
        residual.add_(total)
        x = residual.float()
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)).to(residual.dtype)
    if step == "swiglu":
        gate, up = total.chunk(2, 1)
        return F.silu(gate) * up
    q, k, v = total.view(-1, H + 2 * H_KV, D).split((H, H_KV, H_KV), 1)
    c, s = (table[positions][:, None].repeat(1, 1, 2) for table in (cos, sin))
    q, k = (x * c + torch.cat((-x[..., D // 2 :], x[..., : D // 2]), -1) * s for x in (q, k))
    rows = torch.arange(len(total), device=total.device)
    key_cache[rows, positions] = k.to(total.dtype)
    value_cache[rows, positions] = v
    return q.to(total.dtype)


def peer(step: str, K: int) -> Callable[[Inputs], Tensor]:
    torch.compiler.reset()

    def whole(z: Tensor, dense: Tensor | None, mask: Tensor | None, *rest: Tensor) -> Tensor:
        N = sum(WIDTHS[step])
        total = z if dense is None else torch.addmm(z[:, :N], z[:, N:] * mask, dense)
        return plain(step, total, *rest)

    run = torch.compile(whole, fullgraph=True, dynamic=False, disable=not GPU)

    def call(x: Inputs) -> Tensor:
        adapters = (None, None) if x.lora is None else (x.lora.dense, x.lora.mask)
        rest = (x.residual, x.weight, x.cos, x.sin, x.positions, x.key_cache, x.value_cache)
        return run(x.z, *adapters, *rest)

    return call


def bytes_moved(step: str, x: Inputs) -> int:
    R, N = len(x.z), sum(WIDTHS[step])
    elements = x.z.numel() + {"norm": 3 * R * N + N, "rotary": R * N, "swiglu": R * N // 2}[step]
    if x.lora is not None:
        elements += min(R, x.lora.up.shape[0]) * N * RANK
    return elements * DTYPE.itemsize + (R * D * 4 if step == "rotary" else 0)


def check(step: str, one: Tensor, x: Inputs, before: Tensor) -> None:
    """Against torch without a compiler."""
    rest = (x.weight, x.cos, x.sin, x.positions, x.key_cache.clone(), x.value_cache.clone())
    expected = plain(step, expand(x.z, x.lora).contiguous(), before.clone(), *rest)
    assert ((one.float() - expected.float()).abs() <= 0.03 * expected.float().abs() + 0.1).all()


@pytest.mark.benchmark(timer=measure.CLOCK)
@pytest.mark.parametrize(
    ("step", "R", "K", "way"),
    [
        pytest.param(*case, id="{} R={} K={} {}".format(*case), marks=[] if is_short(*case) else [pytest.mark.full])
        for case in CASES
    ],
)
def test_step(benchmark, step: str, R: int, K: int, way: str) -> None:
    torch.manual_seed(0)
    first = make_inputs(step, R, K)
    size = bytes_moved(step, first)
    sets = [first, *(make_inputs(step, R, K) for _ in range(measure.rotation(size).sets - 1))]
    take = partial(ours, step) if way == "ours" else peer(step, K)
    # A round's calls write over what they read: one call is checked before it.
    with torch.no_grad():
        before = first.residual.clone()
        check(step, take(first), first, before)
    benchmark.extra_info.update(
        {"way": way, "step": step, "rows": R, "K": K, "dtype": str(DTYPE).removeprefix("torch.")}
    )
    measure.time_calls(benchmark, [partial(take, inputs) for inputs in sets], size)


@pytest.mark.benchmark(timer=measure.CLOCK)
@pytest.mark.parametrize(("P", "N", "way"), list(itertools.product((1, 16), (8, 64, 1024), ("ours", "torch"))))
def test_resample(benchmark, P: int, N: int, way: str) -> None:
    torch.manual_seed(0)
    systems, call = [make_population(P, N, DEVICE) for _ in range(4)], resampled(way)
    benchmark.extra_info.update({"way": way, "step": "resample", "P": P, "N": N})
    measure.time_calls(benchmark, [partial(call, one) for one in systems], systems[0].log_weights.nbytes)


@pytest.mark.benchmark(timer=measure.CLOCK)
@pytest.mark.parametrize(("K", "tail", "way"), list(itertools.product((1, 3), (16, 64, 256), ("ours", "torch"))))
def test_follow(benchmark, K: int, tail: int, way: str) -> None:
    torch.manual_seed(0)
    first = make_tails(LAYERS, K + 1, 8, H_KV, D, START, tail, DEVICE)
    more = measure.rotation(first.moved_bytes).sets - 1
    sets = [first, *(make_tails(LAYERS, K + 1, 8, H_KV, D, START, tail, DEVICE) for _ in range(more))]
    call = followed(way, START)
    # Following twice is following once, so a round's calls may go over what they left.
    benchmark.extra_info.update({"way": way, "step": "follow", "K": K, "tail": tail})
    measure.time_calls(benchmark, [partial(call, one) for one in sets], first.moved_bytes)
