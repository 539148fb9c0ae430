"""Cases and checks of a residual stream's products for few rows, for the interpreter and for a GPU.

In the interpreter they give the bits of the kernels they stand for: `skinny_linear`, `add_rms_norm`, `skinny_linear`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from interpreted_loads import addresses_read
from linear_cases import SENTINEL, addresses, amid_nan, inside_sentinels, numbers
from step_cases import assert_near, noise
from torch import Tensor

from genarm_kernels.layer import cut, norm
from genarm_kernels.layer.linear import linear_by_kernel
from genarm_kernels.layer.lora import Lora
from genarm_kernels.layer.norm import add_rms_norm, block_size
from genarm_kernels.layer.residual import COUNTERS, Residual, add_linear, normed_linear

EPS = 1e-5
FLOAT, HALF = torch.float32, torch.bfloat16
AFTER = 33  # columns of the product behind: one more than a tile


class Layer(NamedTuple):
    """A product that is added to a residual, with adapters or without, and the normed one behind it."""

    values: Tensor
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    lora: Lora | None
    gain: Tensor
    after: Tensor

    def row(self, place: int) -> "Layer":
        own = slice(place, place + 1)
        lora = self.lora and Lora(self.lora.up, self.lora.adapters[own], self.lora.widths)
        return self._replace(values=self.values[own], x=self.x[own], lora=lora)


class Results(NamedTuple):
    values: Tensor
    squares: Tensor
    normed: Tensor

    def row(self, place: int) -> "Results":
        return Results(*(each[place : place + 1] for each in self))


def layer(
    R: int, N: int, H: int, A: int = 0, rank: int = 16, dtype: torch.dtype = FLOAT, bias: bool = False,
    device: str = "cpu",
) -> Layer:  # fmt: skip
    """Every tensor amid NaN, the rows' adapters −1 … A − 1 in turn."""

    def some(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
        return (noise(*shape, seed=seed) * scale).to(device, dtype)

    lora, shrinks = None, A * rank
    if A:
        # A whole adapter of NaN on either side of those there are.
        up = torch.full((A + 2, N, rank), torch.nan, dtype=dtype, device=device)
        up[1:-1] = some(A, N, rank, seed=2, scale=rank**-0.5)
        lora = Lora(up[1:-1], (torch.arange(R) % (A + 1) - 1).to(device, torch.int32), (N,))
    return Layer(
        some(R, N, seed=3),
        amid_nan(some(R, H, seed=4), 3, 5),
        amid_nan(some(N + shrinks, H, seed=5, scale=H**-0.5), 2, 5),
        some(N + shrinks, seed=6) if bias else None,
        lora,
        amid_nan(1 + some(1, N, seed=7, scale=0.2), 1, 16)[0],
        amid_nan(some(AFTER, N, seed=8), 2, 5),
    )


def begun(values: Tensor) -> tuple[Residual, Tensor, Tensor]:
    """A residual amid sentinels, and the room it and its squares have; of these NaN is to be written over, and what
    lies behind N/8 is 0 and stays so."""
    (R, N), device = values.shape, str(values.device)
    block = block_size(N, values.element_size())
    own, room = inside_sentinels(R, N, values.dtype, device)
    squares, around = inside_sentinels(R, -(-N // block) * block // 8, FLOAT, device)
    squares.zero_()[:, : -(-N // 8)] = torch.nan
    return Residual(own.copy_(values), squares, torch.zeros(COUNTERS, dtype=torch.int32, device=device)), room, around


def narrow(layer: Layer) -> Results:
    residual, room, around = begun(layer.values)
    add_linear(residual, layer.x, layer.weight, layer.bias, layer.lora)
    assert residual.counters.tolist() == [0] * COUNTERS, "the counters are not ready for the next launch"
    y = normed_linear(residual, layer.gain, EPS, layer.after)
    for inner, outer in ((residual.values, room), (residual.squares, around)):
        mask = torch.ones_like(outer, dtype=torch.bool)
        mask[1 : 1 + len(inner), : inner.shape[1]] = False
        assert bool((outer[mask] == SENTINEL).all()), "written beside the rows"
    eights = -(-layer.values.shape[1] // 8)
    assert not residual.squares[:, eights:].count_nonzero(), "squares beyond the columns"
    return Results(residual.values, residual.squares[:, :eights], y)


def apart(layer: Layer) -> tuple[Tensor, Tensor]:
    """The residual and the product behind it, by one kernel for each step."""
    values = layer.values.clone()
    z = linear_by_kernel(layer.x, layer.weight, layer.bias)
    return values, linear_by_kernel(add_rms_norm(z, values, layer.gain, EPS, layer.lora), layer.after)


def agrees(*shape: Any, **options: Any) -> None:
    """Bit for bit in the interpreter, within roundings on a GPU, where the norm's sums have another order."""
    case = layer(*shape, **options)
    (values, y), own = apart(case), narrow(case)
    if values.is_cuda:
        assert_near(own.values, values.double())
        assert_near(own.normed, y.double())
    else:
        assert torch.equal(own.values, values)
        assert torch.equal(own.normed, y)
    assert own.normed.stride(0) * own.normed.element_size() % 16 == 0
    R, N = values.shape
    squares = torch.nn.functional.pad(own.values.double().square(), (0, -N % 8)).view(R, -1, 8).sum(2)
    torch.testing.assert_close(own.squares.double(), squares, rtol=1e-5, atol=0)


@contextmanager
def tall_tiles() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut, "TALL", 0)
        cut.configuration.cache_clear()
        yield
    cut.configuration.cache_clear()


@contextmanager
def short_blocks() -> Iterator[None]:
    """A row's sums of eights in blocks of 256 columns of float32 or 512 of bfloat16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norm, "LARGEST", 512)
        yield


def without_adapters(device: str = "cpu") -> None:
    agrees(9, 100, 130, bias=True, device=device)
    agrees(1, 40, 264, dtype=HALF, bias=True, device=device)


def with_adapters(device: str = "cpu") -> None:
    agrees(5, 100, 130, 3, 5, device=device)
    agrees(16, 40, 128, 1, 16, dtype=HALF, device=device)


def with_more_ranks_than_one_step_takes(device: str = "cpu") -> None:
    """Four columns of the last tile and 60 shrinks are two tiles; with a bias on both."""
    agrees(4, 100, 40, 3, 20, bias=True, device=device)
    agrees(2, 100, 40, 1, 32, dtype=HALF, device=device)


def with_tall_tiles(device: str = "cpu") -> None:
    with tall_tiles():
        agrees(3, 100, 40, 3, 3, dtype=HALF, device=device)


def of_several_blocks(device: str = "cpu") -> None:
    with short_blocks():
        agrees(2, 264, 20, device=device)
        agrees(1, 512, 20, device=device)


def launches_follow_one_another(device: str = "cpu") -> None:
    """On the same counters, which each of them leaves as it found them."""
    case = layer(2, 70, 20, 1, 3, device=device)
    residual, *_ = begun(case.values)
    once = narrow(case).values
    for _ in range(2):
        residual.values.copy_(case.values)
        add_linear(residual, case.x, case.weight, case.bias, case.lora)
        assert residual.counters.tolist() == [0] * COUNTERS
        assert torch.equal(residual.values, once)


def a_row_is_its_own(device: str = "cpu") -> None:
    """Alone, at any place among NaN and infinities, and with adapters of others that are NaN."""
    case = layer(8, 40, 40, 3, 5, dtype=HALF, bias=True, device=device)
    whole = narrow(case)
    for place in (0, 2, 7):
        alone, wild = narrow(case.row(place)), narrow(amid_wild_rows(case, place))
        for one, two, three in zip(alone, whole.row(place), wild.row(place), strict=True):
            assert torch.equal(one, two)
            assert torch.equal(one, three)


def amid_wild_rows(case: Layer, place: int) -> Layer:
    assert case.lora is not None
    x, values = torch.full_like(case.x, torch.inf), torch.full_like(case.values, torch.nan)
    x[::2] = torch.nan
    x[place], values[place] = case.x[place], case.values[place]
    up, own = torch.full_like(case.lora.up, torch.nan), int(case.lora.adapters[place])
    if own >= 0:
        up[own] = case.lora.up[own]
    return case._replace(values=values, x=x, lora=Lora(up, case.lora.adapters, case.lora.widths))


def a_row_is_the_same_in_a_larger_tile(device: str = "cpu") -> None:
    """Sums of whole numbers are exact, whatever numpy's product of a tile of 16 rows does beside one of 8."""
    case = layer(16, 40, 40, 3, 5, device=device)
    case.x.copy_(numbers(16, 40, seed=1, dtype=FLOAT))
    case.weight.copy_(numbers(55, 40, seed=2, dtype=FLOAT))
    whole = narrow(case)
    for place in (1, 15):
        alone = narrow(case.row(place))
        assert torch.equal(alone.values, whole.row(place).values)
        assert torch.equal(alone.squares, whole.row(place).squares)


def of_room(seen: Any, tensor: Tensor) -> set[int]:
    """What was read of the memory that a tensor is part of."""
    start = tensor.untyped_storage().data_ptr()
    return {at for at in seen if start <= at < start + tensor.untyped_storage().nbytes()}


def nothing_else_is_read() -> None:
    """In the interpreter alone: the weights once, of B the rows' own adapters, and nothing beside a tensor."""
    case = layer(3, 70, 40, 2, 5)
    case.lora.adapters.copy_(torch.tensor([-1, 1, 1]))  # type: ignore[union-attr]
    residual, *_ = begun(case.values)
    with pytest.MonkeyPatch.context() as patch:
        seen = addresses_read(patch)
        add_linear(residual, case.x, case.weight, None, case.lora)
        for tensor in (case.x, case.weight, residual.values):
            assert of_room(seen, tensor) == addresses(tensor)
        assert case.lora is not None and of_room(seen, case.lora.up) == addresses(case.lora.up[1])
        # The residual's last tile of 6 columns and those of A read each other's rows and, past them, the last again.
        assert {seen[at] for at in addresses(case.weight[:64])} == {1}
        assert {seen[at] for at in addresses(residual.values)} == {1}
        seen.clear()
        normed_linear(residual, case.gain, EPS, case.after)
    assert of_room(seen, residual.values) == addresses(residual.values)
    assert of_room(seen, residual.squares) == addresses(residual.squares)
    assert of_room(seen, case.gain) == addresses(case.gain[None])
    assert of_room(seen, case.after) == addresses(case.after)


CHECKS = (
    without_adapters,
    with_adapters,
    with_more_ranks_than_one_step_takes,
    with_tall_tiles,
    of_several_blocks,
    launches_follow_one_another,
    a_row_is_its_own,
    a_row_is_the_same_in_a_larger_tile,
)
