"""The residual stream of few rows: its products are those of a kernel per step, and which calls are for them."""

from collections.abc import Callable
from dataclasses import replace

import embed_cases
import pytest
import residual_cases as cases
import torch

from genarm_kernels.card import DEFAULT
from genarm_kernels.layer import linear, residual
from genarm_kernels.layer.embed import embed
from genarm_kernels.layer.lora import Lora
from genarm_kernels.layer.residual import add_linear, adds_residual, normed_linear, reads_residual


@pytest.mark.usefixtures("stale_memory")
@pytest.mark.parametrize("check", cases.CHECKS + embed_cases.CHECKS, ids=lambda check: check.__name__)
def test_check(check: Callable[[str], None], kernel_device: str) -> None:
    check(kernel_device)


@pytest.mark.interpreter
def test_nothing_else_is_read() -> None:
    cases.nothing_else_is_read()


def test_a_cpu_embeds_by_torch() -> None:
    embed_cases.every_stream_gets_its_rows()


@pytest.mark.parametrize("wrong", [-1, embed_cases.V, 2**40])
def test_a_cpu_refuses_an_id_that_does_not_exist(wrong: int) -> None:
    lengths = torch.tensor([5, 6], dtype=torch.int32)
    with pytest.raises(IndexError, match=rf"token id {wrong} is none of the embedding's 0 … 10: pass ids"):
        embed(torch.tensor([[4], [wrong]]), torch.zeros(embed_cases.V, 40), lengths, torch.zeros(2))
    assert lengths.tolist() == [5, 6], "nothing was begun"


@pytest.mark.interpreter
def test_sixteen_rows_are_few() -> None:
    norm, weight = torch.empty(40), torch.empty(40, 40)
    assert reads_residual(16, norm, weight) and not reads_residual(17, norm, weight)
    assert adds_residual(16, weight) and not adds_residual(17, weight)
    assert not reads_residual(0, norm, weight) and not adds_residual(0, weight)
    assert not reads_residual(16, norm.bfloat16(), weight)


UNSUITED: list[dict[str, object]] = [
    {"rows": 17}, {"N": 500}, {"H": 4104}, {"dtype": torch.float32}, {"capability": (7, 5)}, {"device": "cpu"},
]  # fmt: skip


@pytest.mark.parametrize("change", [{}, *UNSUITED], ids=str)
def test_a_gpu_takes_few_rows_of_wide_aligned_layers(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    case = {"rows": 16, "N": 4096, "H": 4096, "dtype": torch.bfloat16, "capability": (8, 9), "device": "cuda", **change}
    rows, N, H, dtype, capability, device = case.values()
    # On a CPU everything but the device is as on a GPU.
    prefers = linear.prefers_kernel
    monkeypatch.setattr(linear.card, "card_of", lambda _: replace(DEFAULT, capability=capability))
    monkeypatch.setattr(linear, "prefers_kernel", lambda R, N, H, _: prefers(R, N, H, torch.device(device)))
    weight = torch.empty(N, H, dtype=dtype)
    assert reads_residual(rows, torch.empty(H, dtype=dtype), weight) == (not change)
    assert adds_residual(rows, weight) == (not change)


def test_a_norm_of_another_dtype_and_a_layer_taken_in_parts_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "prefers_kernel", lambda *_: True)
    weight = torch.empty(512, 14336, dtype=torch.bfloat16)
    assert reads_residual(4, torch.empty(14336, dtype=torch.bfloat16), weight)
    assert not reads_residual(4, torch.empty(14336), weight)
    # A norm of 256 columns would be summed in another order for 9 rows than for 8.
    assert not reads_residual(4, torch.empty(256, dtype=torch.bfloat16), torch.empty(512, 256, dtype=torch.bfloat16))
    # Its parts are added by a second kernel, which knows nothing of a residual.
    assert linear.takes_rows(4, weight) and not adds_residual(4, weight)


@pytest.mark.interpreter
def test_what_does_not_fit_is_named() -> None:
    case = cases.layer(2, 40, 24, 1, 3)
    own, *_ = cases.begun(case.values)
    before, lora = own.values.clone(), case.lora
    assert lora is not None
    with pytest.raises(ValueError, match=r"x is \[2, 23\] and weight \[43, 24\]: expected \[2, H\], contiguous rows"):
        add_linear(own, case.x[:, 1:], case.weight, None, lora)
    with pytest.raises(ValueError, match=r"x is \[1, 24\] .*: expected \[2, H\]"):
        add_linear(own, case.x[:1], case.weight, None, lora)
    with pytest.raises(ValueError, match=r"weight \[43, 24\]: expected .* \[40 \+ 0 shrinks, H\]"):
        add_linear(own, case.x, case.weight)
    with pytest.raises(ValueError, match=r"x is \[2, 24\] .* contiguous rows"):
        add_linear(own, case.x.t().contiguous().t(), case.weight, None, lora)
    with pytest.raises(ValueError, match=r"x is torch.bfloat16 on cpu and weight torch.float32 on cpu: .* residual"):
        add_linear(own, case.x.bfloat16(), case.weight, None, lora)
    with pytest.raises(ValueError, match=r"bias is \[40\] torch.float32 on cpu: expected \[43\] torch.float32 on cpu"):
        add_linear(own, case.x, case.weight, torch.zeros(40), lora)
    with pytest.raises(ValueError, match=r"lora.adapters is torch.int32 \[1\] .* one adapter per row"):
        add_linear(own, case.x, case.weight, None, Lora(lora.up, lora.adapters[:1], (40,)))
    assert torch.equal(own.values, before)


@pytest.mark.interpreter
@pytest.mark.parametrize(("columns", "dtype", "stride"), [(33, torch.float32, 36), (41, torch.bfloat16, 48)], ids=str)
def test_rows_of_any_width_start_at_16_bytes(columns: int, dtype: torch.dtype, stride: int) -> None:
    case = cases.layer(2, 40, 24, dtype=dtype)
    own, *_ = cases.begun(case.values)
    add_linear(own, case.x, case.weight)
    y = normed_linear(
        own, case.gain, cases.EPS, torch.zeros(columns, 40, dtype=dtype), torch.ones(columns, dtype=dtype)
    )
    assert y.stride() == (stride, 1) and torch.equal(y, torch.ones_like(y))
    assert residual.padded_rows(y, columns).stride() == (stride, 1)
