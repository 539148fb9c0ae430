"""Cases and checks of the element-wise steps, for every path they take: torch on a CPU, the interpreter, a GPU."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import genarm_kernels
from genarm_kernels import reference
from genarm_kernels.layer.lora import Lora

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Distance from the float64 truth in units of the last place of the largest value of a row.
ROUNDINGS = 3
SENTINEL = 77.0


LAYOUTS = ("contiguous", "padded", "narrow")


def sampled(*shapes: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Each shape with a dtype and a layout behind it; over nine shapes every pair of these comes once."""
    pairs = itertools.cycle(itertools.product(DTYPES, LAYOUTS))
    return [(*shape, *pair) for shape, pair in zip(shapes, pairs, strict=False)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_rows(R: int, columns: int, dtype: torch.dtype, device: str = "cpu", layout: str = "contiguous") -> Tensor:
    """[R, columns]; "padded" has 16 bytes more a row, "narrow" rows that start anywhere."""
    values = noise(R, columns, seed=1).to(device, dtype)
    pad, start = {"contiguous": (0, 0), "padded": (16 // values.element_size(), 0), "narrow": (3, 1)}[layout]
    wide = torch.full((R, columns + pad), torch.nan, dtype=dtype, device=device)
    return wide[:, start : start + columns].copy_(values)


def make_lora(
    R: int, widths: tuple[int, ...], A: int, rank: int, dtype: torch.dtype, device: str = "cpu", adapters: object = None
) -> Lora | None:
    """A adapters, the rows' among −1 … A − 1 in turn; None for none."""
    if A == 0:
        return None
    up = (noise(A, sum(widths), rank, seed=2) / rank**0.5).to(device, dtype)
    chosen = torch.arange(R) % (A + 1) - 1 if adapters is None else torch.tensor(adapters)
    return Lora(up, chosen.to(device, torch.int32), widths)


def columns(widths: Sequence[int], lora: Lora | None) -> int:
    return sum(widths) + (0 if lora is None else lora.shrinks)


def assert_near(ours: Tensor, truth: Tensor, roundings: float = ROUNDINGS) -> None:
    """Within a few roundings of the dtype, of the value and of the largest of its row."""
    assert ours.shape == truth.shape
    ours, eps = ours.detach(), torch.finfo(ours.dtype).eps
    if not truth.numel():
        return
    # float32 sums over thousands of columns lose more than the last place.
    slack = roundings * (8 if ours.dtype == torch.float32 else 1)
    allowed = eps * (truth.abs() + 0.5 * truth.abs().amax(-1, keepdim=True)) * slack
    error = (ours.double() - truth).abs()
    assert bool((error <= allowed).all()), f"off by {(error / allowed).max():.3g} of what is allowed"


def check_norm(
    R: int, N: int, dtype: torch.dtype, A: int = 0, rank: int = 16, layout: str = "contiguous", device: str = "cpu",
    add: bool = True,
) -> None:  # fmt: skip
    lora = make_lora(R, (N,), A, rank, dtype, device)
    z = make_rows(R, columns((N,), lora), dtype, device, layout) if add else None
    residual = make_rows(R, N, dtype, device, layout)
    residual.mul_(3)
    weight = (1 + 0.2 * noise(N, seed=3)).to(device, dtype)
    before = None if z is None else z.clone()
    total, normed = reference.add_rms_norm(z, residual, weight, 1e-5, lora)
    ours = genarm_kernels.add_rms_norm(z, residual, weight, 1e-5, lora)
    assert_near(residual, total)
    assert_near(ours, normed)
    # Off the rounded residual it is exact to the last places.
    assert_near(ours, reference.add_rms_norm(None, residual, weight, 1e-5)[1], 1.5)
    assert before is None or torch.equal(z, before)


def check_norm_is_hugging_face_s(dtype: torch.dtype = torch.float16, device: str = "cpu", N: int = 512) -> None:
    """The same bits as LlamaRMSNorm's, but for a last bit of its root now and then."""
    z, residual = (make_rows(4, N, dtype, device) for _ in range(2))
    residual.mul_(1.7)
    weight = (1 + 0.2 * noise(N, seed=3)).to(device, dtype)
    normed = genarm_kernels.add_rms_norm(z, residual, weight, 1e-5)
    x = residual.float()
    scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
    assert (normed != weight * scaled.to(dtype)).float().mean() < 0.01


def check_swiglu(
    R: int, width: int, dtype: torch.dtype, A: int = 0, rank: int = 16, layout: str = "contiguous", device: str = "cpu",
) -> None:  # fmt: skip
    lora = make_lora(R, (width, width), A, rank, dtype, device)
    z = make_rows(R, columns((width, width), lora), dtype, device, layout)
    before = z.clone()
    assert_near(genarm_kernels.swiglu(z, lora), reference.swiglu(z, lora))
    assert torch.equal(z, before)


def make_caches(C: int, T: int, H_kv: int, D: int, dtype: torch.dtype, device: str, layout: str) -> list[Tensor]:
    """Two caches [C, T, H_kv, D] full of a sentinel: rows of heads outside positions, or the other way, or odd."""
    if layout == "contiguous":
        store = torch.full((2, C, T, H_kv, D), SENTINEL, dtype=dtype, device=device)
        return [store[0], store[1]]
    if layout == "padded":
        store = torch.full((2, C, H_kv, T, D), SENTINEL, dtype=dtype, device=device)
        return [store[0].transpose(1, 2), store[1].transpose(1, 2)]
    store = torch.full((C, T, H_kv, 2, D + 1), SENTINEL, dtype=dtype, device=device)
    return [store[..., 0, 1:], store[..., 1, :-1]]


def make_angles(T: int, D: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    angles = torch.arange(T)[:, None] * 10000.0 ** (-torch.arange(0, D, 2) / D)[None]
    return angles.cos().to(device), angles.sin().to(device)


def check_rotary(
    R: int, H: int, H_kv: int, D: int, dtype: torch.dtype, A: int = 0, rank: int = 16, layout: str = "contiguous",
    device: str = "cpu", norm: bool = False, positions: Sequence[int] | None = None, rows: Sequence[int] | None = None,
    integers: torch.dtype = torch.int64, starts: Sequence[int] | None = None,
) -> None:  # fmt: skip
    """Into caches of R + 2 rows of 12 places, with as many angles, or 20 where rows start somewhere."""
    T, widths = 12, (H * D, H_kv * D, H_kv * D)
    lora = make_lora(R, widths, A, rank, dtype, device)
    z = make_rows(R, columns(widths, lora), dtype, device, layout)
    caches = make_caches(R + 2, T, H_kv, D, dtype, device, layout)
    at = torch.tensor([(5 * r + 1) % T for r in range(R)] if positions is None else positions)
    where = None if rows is None else torch.tensor(rows).to(device, integers)
    weights = [(1 + 0.2 * noise(D, seed=s)).to(device, dtype) for s in (5, 6)] if norm else [None, None]
    begun = None if starts is None else torch.tensor(starts, dtype=torch.int32, device=device)
    angles = make_angles(T if starts is None else 20, D, device)
    arguments = (*angles, at.to(device, integers), *caches, H, lora, where, *weights, 1e-5, begun)
    before = z.clone()
    query, *expected = reference.rotary_store(z, *arguments)
    assert_near(genarm_kernels.rotary_store(z, *arguments), query)
    for cache, truth in zip(caches, expected, strict=True):
        untouched = truth == SENTINEL
        assert_near(torch.where(untouched, 0, cache), torch.where(untouched, 0, truth))
        assert bool((cache[untouched] == SENTINEL).all()), "a place that no token has was written"
    assert torch.equal(z, before)


def check_starts(dtype: torch.dtype, device: str = "cpu", **options: Any) -> None:
    """Rows of a cache that start somewhere: tokens at their first place, their last, in between; just before, just
    behind, and where a row starts, before the first position, behind the last one with angles, and far away."""
    starts = [0, 7, 15, 3, -4, 9, 2, 17, 0, 0, 30]
    rows, positions = [1, 5, 2, 3, 0, 7, 4, 6, 8], [7, 19, 14, 15, 12, 20, -1, 5, -(2**31)]
    options = {"A": 0, "rank": 16, "layout": "contiguous", "norm": False} | options
    check_rotary(9, 4, 2, 16, dtype, device=device, positions=positions, rows=rows, starts=starts, **options)
