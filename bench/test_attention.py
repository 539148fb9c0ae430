"""decode_attention against what else one could call, one new token per row at an 8B model's heads.

    python -m pytest bench/test_attention.py -m "not full"

`bytes` are the keys and values that live, `share_of_copy` is them over the time and the copy bandwidth measured beside
it. Every row has the same length, which only "ours" does not know: its cache is twice as long, and it reads lengths on
the device. Without a GPU it measures the CPU paths at small shapes.

- ours: genarm_kernels.decode_attention in a static cache
- sdpa: scaled_dot_product_attention with enable_gqa on the live part, cut out beforehand
- sdpa, mask: what a static cache makes of it: the whole of a cache just long enough under a mask, key heads repeated
- flash-attn: flash_attn_with_kvcache, in the same cache as ours
- matmuls (CPU): two batched matmuls on the live part, float32 softmax

`test_shared_attention` times rows that have one prefix and TAIL tokens each behind it: shared_attention ("shared"), and
decode_attention where every row holds all of it itself ("apart"). `bytes` are those of the prefix once and the tails.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench import measure
from bench.measure import DEVICE, GPU
from genarm.models.fused.attention import _flash_takes
from genarm.models.fused.attention import decode_attention as attend
from genarm_kernels import decode_attention, new_sharing, reference, shared_attention

DTYPE = torch.bfloat16
H, H_KV, D = (32, 8, 128) if GPU else (16, 4, 64)
LENGTHS = (1024, 4096, 16384, 32768) if GPU else (256, 1024)
ROWS = (1, 4, 16, 32) if GPU else (1, 2, 4, 8)
SCALE = D**-0.5
TAIL = 64


@dataclass(frozen=True)
class Step:
    """One call's tensors: query [R, 1, H, D], caches [R, 2·length, H_kv, D] as the engine lays them out."""

    query: Tensor
    keys: Tensor
    values: Tensor
    lengths: Tensor
    longest: int
    mask: Tensor

    @property
    def live(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query [R, H, 1, D], keys and values [R, H_kv, length, D]."""
        k, v = (cached.transpose(1, 2)[:, :, : self.longest] for cached in (self.keys, self.values))
        return self.query.transpose(1, 2), k, v


def make_step(R: int, length: int) -> Step:
    query = torch.randn(R, 1, H, D, device=DEVICE, dtype=DTYPE)
    keys, values = (torch.randn(R, H_KV, 2 * length, D, device=DEVICE, dtype=DTYPE).transpose(1, 2) for _ in range(2))
    lengths = torch.full((R,), length, dtype=torch.int32, device=DEVICE)
    mask = torch.ones(R, 1, 1, length, dtype=torch.bool, device=DEVICE)
    return Step(query, keys, values, lengths, length, mask)


def ours(step: Step) -> Tensor:
    return decode_attention(step.query, step.keys, step.values, step.lengths, SCALE, longest=step.longest, even=True)


def uneven(step: Step) -> Tensor:
    return decode_attention(step.query, step.keys, step.values, step.lengths, SCALE, longest=step.longest)


def sdpa(step: Step) -> Tensor:
    return scaled_dot_product_attention(*step.live, scale=SCALE, enable_gqa=True).transpose(1, 2)


def masked(step: Step) -> Tensor:
    query, k, v = step.live
    k, v = k.repeat_interleave(H // H_KV, 1), v.repeat_interleave(H // H_KV, 1)
    return scaled_dot_product_attention(query, k, v, attn_mask=step.mask, scale=SCALE).transpose(1, 2)


def matmuls(step: Step) -> Tensor:
    query, k, v = step.live
    grouped = query.reshape(len(query), H_KV, H // H_KV, D)
    weights = (grouped @ k.mT * SCALE).softmax(-1)
    return (weights @ v).reshape(len(query), 1, H, D)


def flash_attn(step: Step) -> Tensor:
    return attend(step.query, step.keys, step.values, step.lengths, SCALE, backend="flash-attn")


WAYS: dict[str, Callable[[Step], Tensor]] = {"ours": ours, "sdpa": sdpa, "sdpa, mask": masked}
WAYS |= {"flash-attn": flash_attn} if GPU else {"ours, uneven": uneven, "matmuls": matmuls}
CASES = [
    # The mask's copies of all heads would take longer than the rest together.
    pytest.param(R, T, way, id=f"R{R}-T{T}-{way}", marks=[pytest.mark.full] if R * T > 2**18 and "mask" in way else [])
    for (R, T), way in itertools.product(itertools.product(ROWS, LENGTHS), WAYS)
]


def check(out: Tensor, step: Step) -> None:
    """The first row against float64: close to the roundings of bfloat16."""
    first = [x[:1] for x in (step.query, step.keys, step.values, step.lengths)]
    expected = reference.decode_attention(*first, SCALE)
    # Weights and result are rounded once each; a sum of many values about 0 has the size of one over their root.
    error = (out[:1].double() - expected).abs().max()
    assert error <= 2**-6 * expected.abs().max()


@pytest.mark.benchmark(timer=measure.CLOCK)
@pytest.mark.parametrize(("R", "T", "way"), CASES)
def test_attention(benchmark, R: int, T: int, way: str) -> None:
    torch.manual_seed(0)
    size = 2 * R * T * H_KV * D * DTYPE.itemsize
    steps = [make_step(R, T) for _ in range(measure.rotation(size).sets)]
    if way == "flash-attn" and not _flash_takes(steps[0].query, steps[0].keys, steps[0].values):
        pytest.skip("NOT MEASURED: flash-attn is not installed (pip install flash-attn)")
    benchmark.extra_info.update(
        {"way": way, "rows": R, "length": T, "heads": [H, H_KV, D], "dtype": str(DTYPE).removeprefix("torch.")}
    )
    calls = [partial(WAYS[way], step) for step in steps]
    measure.time_calls(benchmark, calls, size, lambda outs: check(outs[0], steps[0]))


def make_shared(R: int, length: int) -> tuple[Step, Callable[[], Tensor]]:
    """Rows that hold a prefix of ``length`` and TAIL tokens themselves, and the call for those that share it."""
    step = make_step(R, length + TAIL)
    for cache in (step.keys, step.values):
        cache[1:, :length] = cache[:1, :length]
    tails = [
        cache[:, length : length + TAIL].transpose(1, 2).contiguous().transpose(1, 2)
        for cache in (step.keys, step.values)
    ]
    prefix = [cache[:1, :length].transpose(1, 2).contiguous().transpose(1, 2) for cache in (step.keys, step.values)]
    sharing = new_sharing(R, 1, DEVICE)
    sharing.lengths.fill_(length)
    sharing.extents.fill_(length)
    return step, partial(shared_attention, step.query, *tails, step.lengths, *prefix, sharing, SCALE)


@pytest.mark.benchmark(timer=measure.CLOCK)
@pytest.mark.parametrize("way", ["shared", "apart"])
@pytest.mark.parametrize(("R", "T"), [*itertools.product(ROWS, LENGTHS[:3])])
def test_shared_attention(benchmark, R: int, T: int, way: str) -> None:
    torch.manual_seed(0)
    size = 2 * (T + R * TAIL) * H_KV * D * DTYPE.itemsize
    if R * T > 2**18:
        pytest.skip("NOT MEASURED: rows that hold all of it themselves would not fit in rotation")
    made = [make_shared(R, T) for _ in range(measure.rotation(size).sets)]
    benchmark.extra_info.update(
        {"way": way, "rows": R, "length": T, "heads": [H, H_KV, D], "dtype": str(DTYPE).removeprefix("torch.")}
    )
    calls = [call if way == "shared" else partial(ours, step) for step, call in made]
    measure.time_calls(benchmark, calls, size, lambda outs: check(outs[0], made[0][0]))
