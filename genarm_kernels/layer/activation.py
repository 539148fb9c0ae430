"""The step behind gate_up_proj: LoRA expand of both halves and SwiGLU.

    y = silu(gate + B_gate h_gate) · (up + B_up h_up)         silu(x) = x / (1 + e^−x)

A row reads 2·I elements and writes I; with an adapter also its B, 2·I·rank. Program (row, block of 512 columns), 8
columns per lane: at I = 14,336 and rank 16 a row is 28 programs with 32 KB of B each, so that even one row's 0.9 MB
come through many SMs.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED, on_device
from genarm_kernels.layer import cpu
from genarm_kernels.layer.lora import Lora, check_columns, expand_columns
from genarm_kernels.layer.norm import at
from genarm_kernels.sampling.groups import starts_rows_at_16_bytes

BLOCK, WARPS = 512, 2


@triton.jit(do_not_specialize=["z_stride"], do_not_specialize_on_alignment=["adapters"])
def swiglu_kernel(
    z, z_stride, out, up, adapters, WIDTH: tl.constexpr, RANK: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr
):
    """Program (row, block of columns); RANK 0 is no LoRA."""
    row = tl.program_id(0).to(tl.int64)
    ALIGNED: tl.constexpr = BLOCK if WIDE else 1
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < WIDTH
    z += row * z_stride
    gate = tl.load(at(z, columns, ALIGNED), mask=mask, other=0.0).to(tl.float32)
    value = tl.load(at(z + WIDTH, columns, ALIGNED), mask=mask, other=0.0).to(tl.float32)
    if RANK > 0:
        adapter = tl.load(adapters + row)
        gate += expand_columns(z, up, adapter, 0, columns, mask, 2 * WIDTH, 2, RANK)
        value += expand_columns(z, up, adapter, 1, WIDTH + columns, mask, 2 * WIDTH, 2, RANK)
    result = gate / (1.0 + tl.exp(-gate)) * value
    tl.store(out + row * WIDTH + columns, result.to(out.dtype.element_ty), mask=mask)


def swiglu(z: Tensor, lora: Lora | None = None) -> Tensor:
    """silu(gate) · up of z [R, 2·I + shrinks] = gate | up, the LoRA expand added to both first -> [R, I].

    Args:
        z: bfloat16, float16 or float32, any row stride. The arithmetic is float32, rounded once.
        lora: the adapters on the layer, with widths (I, I).

    Raises:
        ValueError: shapes, strides, dtypes or devices that do not fit together.

    Source: Shazeer 2020, GLU Variants Improve Transformer; Hu et al. 2021, LoRA.
    """
    columns = z.shape[-1] - (0 if lora is None else lora.shrinks)
    if columns % 2:
        raise ValueError(f"z has {columns} columns before its shrinks: expected gate | up, as many of either")
    I = columns // 2  # noqa: E741
    check_columns(z, (I, I), lora)
    if not (z.is_cuda or INTERPRETED):
        return cpu.swiglu(z, lora)
    out = z.new_empty(z.shape[0], I)
    if out.numel():
        with on_device(z.device):
            _launch(z, out, lora)
    return out


def _launch(z: Tensor, out: Tensor, lora: Lora | None) -> None:
    R, I = out.shape  # noqa: E741
    launch: Any = swiglu_kernel[(R, triton.cdiv(I, BLOCK))]
    launch(
        z,
        z.stride(0),
        out,
        out if lora is None else lora.up,
        out if lora is None else lora.adapters,
        WIDTH=I,
        RANK=0 if lora is None else lora.rank,
        WIDE=starts_rows_at_16_bytes(z) and I * z.element_size() % 16 == 0,
        BLOCK=BLOCK,
        num_warps=WARPS,
        num_stages=1,
    )
