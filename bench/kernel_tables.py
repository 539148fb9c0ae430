"""What the machine code of the kernels says, as the tables of docs/kernels.md: for sm_90, by the compiler at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType

import torch
from triton.compiler import CompiledKernel

from bench.compiled import compiled, loads, loops, multiplying_loop
from bench.machine_code import Configuration, MachineCode, compile_kernel, read, shipped
from genarm_kernels import Lora, add_rms_norm, follow_rows, new_sharing, resample, rotary_store, swiglu
from genarm_kernels.layer import activation, attention, embed, linear, norm, residual, rotary, shared_attention
from genarm_kernels.logprobs import kernels as logprobs
from genarm_kernels.particles import follow
from genarm_kernels.particles import resample as resampling

Table = list[list[str]]  # the head first
BF16 = torch.bfloat16

# What stands around the passes and draws, whatever it is.
AROUND = [name for name in shipped() if "," not in name]
SAMPLING_HEAD = [
    "kernel",
    "registers",
    "bytes spilled",
    "instructions",
    "per id, plain way",
    "loads of 32 ids per lane",
]
SAMPLING = [
    *(f"group, M={M}, bf16, plain, wide" for M in (1, 2, 4, 8)),
    "group, M=2, bf16, plain, narrow",
    *(f"group, M=2, bf16, {feature}, wide" for feature in ("log-probs", "normalisers", "filters", "all")),
    *(f"group, M=4, bf16, {feature}, wide" for feature in ("log-probs", "filters")),
    *(f"group, M={M}, fp32, plain, wide" for M in (2, 8)),
    *(f"draw, M={M}, {feature}" for feature in ("plain", "all") for M in (2, 8)),
    *AROUND,
]


@cache
def code(configuration: Configuration) -> MachineCode:
    return read(compile_kernel(configuration))


def sampling_row(name: str) -> list[str]:
    found = code(shipped()[name])
    an_id = f"{found.plain_an_id:.1f}" if found.plain else ""
    return [name, str(found.registers), str(found.stack), str(found.instructions), an_id, counted(found.plain_loads)]


def counted(names: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in names.items())


@dataclass(frozen=True, slots=True)
class Launch:
    """A launcher's call on CPU tensors, which these modules take to their kernels: a row for each that it starts."""

    name: str
    call: Callable[[], object]
    modules: tuple[ModuleType, ...] = ()


LAUNCH_HEAD = ["launch", "kernel", "registers", "bytes spilled", "instructions", "of a loop", "KB shared", "loads"]


def launch_rows(launch: Launch) -> Table:
    with compiled(90, *launch.modules) as kernels:
        launch.call()
    if len(kernels) > 1:  # a residual needs what begins it
        kernels = [kernel for kernel in kernels if launch.name.startswith("embed") or kernel.name != "embed_kernel"]
    return [[launch.name, *kernel_cells(kernel)] for kernel in kernels]


def kernel_cells(kernel: CompiledKernel) -> list[str]:
    found = read(kernel)
    figures = (found.registers, found.stack, found.instructions, loop_instructions(kernel))
    shared = f"{kernel.metadata.shared / 1024:.3g}" if kernel.metadata.shared else ""
    return [kernel.name.removesuffix("_kernel"), *map(str, figures), shared, counted(loads(kernel))]


def loop_instructions(kernel: CompiledKernel) -> str:
    """Of the innermost loop that multiplies matrices, or of every loop that reads memory."""
    bodies = loops(kernel)
    if any(name.startswith("HMMA") for body in bodies for name in body):
        return str(multiplying_loop(kernel).total())
    return ", ".join(str(body.total()) for body in bodies if any(name.startswith("LDG") for name in body))


def rows_of(R: int, columns: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.empty(R, columns, dtype=dtype)


def make_lora(widths: tuple[int, ...], rank: int, R: int = 1) -> Lora | None:
    """One adapter of this rank behind columns of these widths, which every row takes; none at rank 0."""
    up = torch.empty(1, sum(widths), rank, dtype=BF16)
    return Lora(up, torch.zeros(R, dtype=torch.int32), widths) if rank else None


def columns_of(lora: Lora | None, *widths: int) -> int:
    return sum(widths) + (lora.shrinks if lora else 0)


def linear_call(R: int, N: int, H: int = 4096) -> None:
    linear.linear_by_kernel(rows_of(R, H), rows_of(N, H))


def make_residual(R: int, N: int) -> residual.Residual:
    """Rows of a residual stream, as `embed` leaves them."""
    tokens, lengths = torch.zeros(R, 1).long(), torch.zeros(R, dtype=torch.int32)
    counters = torch.zeros(residual.COUNTERS, dtype=torch.int32)
    return embed.embed(tokens, rows_of(512, N), lengths, counters)[0]


def normed_call(R: int, M: int, N: int = 4096) -> None:
    residual.normed_linear(make_residual(R, N), torch.empty(N, dtype=BF16), 1e-5, rows_of(M, N))


def add_call(R: int, N: int, H: int, rank: int) -> None:
    lora = make_lora((N,), rank, R)
    residual.add_linear(make_residual(R, N), rows_of(R, H), rows_of(columns_of(lora, N), H), None, lora)


def norm_call(rank: int, N: int = 4096) -> None:
    lora = make_lora((N,), rank)
    add_rms_norm(rows_of(1, columns_of(lora, N)), rows_of(1, N), torch.empty(N, dtype=BF16), 1e-5, lora)


def swiglu_call(rank: int, N: int = 14336) -> None:
    lora = make_lora((N, N), rank)
    swiglu(rows_of(1, columns_of(lora, N, N)), lora)


def rotary_call(rank: int, normed: bool, D: int = 128, T: int = 512) -> None:
    widths = (32 * D, 8 * D, 8 * D)
    lora = make_lora(widths, rank)
    cache = torch.empty(2, 1, 8, T, D, dtype=BF16).transpose(2, 3)
    weights = [torch.empty(D, dtype=BF16) if normed else None] * 2
    z, angles, positions = rows_of(1, columns_of(lora, *widths)), torch.empty(2, T, D // 2), torch.zeros(1).long()
    rotary_store(z, *angles, positions, *cache, 32, lora, positions, *weights)


def attention_call(Q: int, H: int, H_kv: int, D: int, T: int = 4096) -> None:
    keys, values = torch.empty(2, 1, H_kv, T, D, dtype=BF16).transpose(2, 3)
    query = torch.empty(1, Q, H, D, dtype=BF16)
    attention.decode_attention(query, keys, values, torch.ones(1, dtype=torch.int32), D**-0.5)


def shared_call(Q: int, H: int, H_kv: int, D: int, R: int = 2, T: int = 512, T_p: int = 4096) -> None:
    caches, prefixes = (
        torch.empty(2, n, H_kv, places, D, dtype=BF16).transpose(2, 3) for n, places in ((R, T), (1, T_p))
    )
    query, lengths = torch.empty(R, Q, H, D, dtype=BF16), torch.ones(R, dtype=torch.int32)
    shared_attention.shared_attention(query, *caches, lengths, *prefixes, new_sharing(R, 1, "cpu"), D**-0.5)


def resample_call(N: int, P: int = 2) -> None:
    resample(torch.zeros(P, N).double(), torch.zeros(P).double(), torch.ones(P, dtype=torch.bool), 0.5)


def follow_call(D: int, offset: int = 0, R: int = 3) -> None:
    cache = torch.empty(2 * 2 * R * 2 * 16 * D + offset, dtype=BF16)[offset:].view(2, 2, R, 2, 16, D)
    follow_rows(cache, torch.zeros(R).long(), torch.zeros(R).int(), torch.ones(R).int())


def finish_rows_call(slopes: bool, C: int = 512, V: int = 128256) -> None:
    logprobs.finish_rows(rows_of(C, V), torch.empty(C).long(), -100, torch.empty(C), torch.empty(C), slopes)


def finish_columns_call(N: int = 900, width: int = 4096) -> None:
    logprobs.finish_columns(rows_of(N, width), torch.empty(N).long(), -100, torch.empty(N), torch.empty(N), 64)


LINEAR = [(1, 6192), (16, 6192), (1, 28768), (16, 28768), (64, 6192)]
ADDED = [(1, 4096, 4096, 16), (16, 4096, 14336, 16)]
ATTENTION = [(1, 32, 8, 128), (5, 32, 8, 128), (8, 16, 2, 256)]
ROTARY = [(False, 0), (False, 16), (True, 0)]
LAUNCHES: dict[str, list[Launch]] = {
    "linear": [
        *(Launch(f"{R} × {N:,}", partial(linear_call, R, N)) for R, N in LINEAR),
        *(Launch(f"{R} × {N:,}, normed", partial(normed_call, R, N), (embed,)) for R, N in LINEAR[:4:3]),
        *(
            Launch(f"{R} × {N:,}, added, rank {rank}", partial(add_call, R, N, H, rank), (embed,))
            for R, N, H, rank in ADDED
        ),
    ],
    "steps": [
        Launch("embed, 4,096", partial(make_residual, 1, 4096), (embed,)),
        *(Launch(f"norm, 4,096, rank {rank}", partial(norm_call, rank), (norm,)) for rank in (0, 16)),
        *(
            Launch(f"rotary, {'normed, ' * normed}rank {rank}", partial(rotary_call, rank, normed), (rotary,))
            for normed, rank in ROTARY
        ),
        *(Launch(f"SwiGLU, 14,336, rank {rank}", partial(swiglu_call, rank), (activation,)) for rank in (0, 16)),
    ],
    "attention": [
        Launch(f"Q = {Q}, {H} heads on {H_kv} of {D}", partial(attention_call, Q, H, H_kv, D), (attention,))
        for Q, H, H_kv, D in ATTENTION
    ],
    "shared prefixes": [
        Launch(
            f"Q = {Q}, {H} heads on {H_kv} of {D}", partial(shared_call, Q, H, H_kv, D), (shared_attention, attention)
        )
        for Q, H, H_kv, D in ATTENTION
    ],
    "particles": [
        *(Launch(f"resample, N = {N:,}", partial(resample_call, N), (resampling,)) for N in (32, 512, 4096)),
        *(Launch(f"follow, heads of {D}", partial(follow_call, D), (follow,)) for D in (128,)),
    ],
    "token log-probs": [
        Launch("rows: the sums", partial(finish_rows_call, False)),
        Launch("rows: sums, then slopes", partial(finish_rows_call, True)),
        Launch("columns", finish_columns_call),
    ],
}
