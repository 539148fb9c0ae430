"""token_logprobs beside all logits in torch and Liger's fused linear cross-entropy: time and peak memory by N and V.

    python -m pytest bench/test_logprobs.py -m "not full"

A way takes hidden states, the head, token ids and a grad for every token, and gives log p of the tokens [N] and the
gradients of what requires one. The ways of a case are checked against plain torch on a share of the rows when the first
of them is asked for, then called in turn, round by round; a ratio is the median of the rounds' own. `floor_us` is the
time of the products that the mode cannot do without. Without a GPU it measures small shapes.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench import measure
from bench.measure import DEVICE, GPU
from genarm.cli.bench import rotate
from genarm_kernels import token_logprobs

Op = Callable[[Tensor, Tensor, Tensor], Tensor]
MODES = ("forward", "frozen", "trained")
# Products of the head that a mode cannot do without: logits; and d hidden; and d head.
PRODUCTS = {"forward": 1, "frozen": 2, "trained": 3}
WAYS = ("ours", "plain", "compiled", "liger", "liger-sum")
FOCUS = 128256
ROUNDS, WARMUP_ROUNDS = (9, 2) if GPU else (5, 1)
CHECKED = 64


@dataclass(frozen=True, slots=True)
class Case:
    """One shape in one mode: log p alone, with the gradient of hidden states, and with that of the head too."""

    N: int
    H: int
    V: int
    dtype: torch.dtype
    mode: str
    full: bool

    @property
    def ways(self) -> tuple[str, ...]:
        """What compiles anew for every shape keeps to one vocabulary."""
        return tuple(way for way in WAYS if way != "compiled" or self.V == FOCUS)

    @property
    def name(self) -> str:
        return f"N{self.N}-H{self.H}-V{self.V}-{str(self.dtype).removeprefix('torch.')}-{self.mode}"


def gpu_cases() -> list[Case]:
    return [
        Case(N, 4096, V, torch.bfloat16, mode, full=V == 151936 or (V == 32000 and mode == "forward"))
        for V, N, mode in product((FOCUS, 32000, 151936), (4096, 16384), MODES)
    ]


def cpu_cases() -> list[Case]:
    return [
        Case(N, H, V, dtype, mode, full=H == 1024 or N * V > 2**26)
        for dtype, H, N, V, mode in product(
            (torch.float32, torch.bfloat16), (256, 1024), (512, 2048), (4096, 32000, FOCUS), MODES
        )
    ]


def plain(hidden: Tensor, lm_head: Tensor, token_ids: Tensor) -> Tensor:
    """All logits, then cross-entropy in float32."""
    return -F.cross_entropy(F.linear(hidden, lm_head).float(), token_ids, reduction="none")


def liger(reduction: str) -> Op:
    """Liger's fused linear cross-entropy; a sum of tokens lets it take gradients as the forward goes."""
    function = import_module("liger_kernel.ops.fused_linear_cross_entropy").LigerFusedLinearCrossEntropyFunction
    return lambda hidden, lm_head, token_ids: (
        -function.apply(hidden, lm_head, token_ids, None, None, -100, 0.0, 0.0, reduction)[0]
    )


def compiled() -> Op:
    # After a few recompilations of one function torch.compile falls back to eager without a word.
    torch.compiler.reset()
    return torch.compile(plain, fullgraph=True, dynamic=False)


BUILDERS: dict[str, Callable[[], Op]] = {
    "ours": lambda: token_logprobs,
    "plain": lambda: plain,
    "compiled": compiled,
    "liger": lambda: liger("none"),
    "liger-sum": lambda: liger("sum"),
}


def missing(way: str, device: torch.device) -> str | None:
    """Why a way cannot be measured here, if it cannot."""
    if way in ("ours", "plain"):
        return None
    if way.startswith("liger") and find_spec("liger_kernel") is None:
        return "liger-kernel is not installed (pip install liger-kernel)"
    return None if device.type == "cuda" else f"{way} is measured on a CUDA device"


def run(op: Op, hidden: Tensor, lm_head: Tensor, token_ids: Tensor, mode: str, grads: Tensor) -> list[Tensor]:
    """log p, or their sum, and the gradients that the mode asks for."""
    if mode == "forward":
        with torch.no_grad():
            return [op(hidden, lm_head, token_ids)]
    leaves = [hidden.detach().requires_grad_()]
    head = lm_head.detach().requires_grad_(mode == "trained")
    leaves += [head] if mode == "trained" else []
    logprobs = op(leaves[0], head, token_ids)
    return [logprobs.detach(), *torch.autograd.grad(logprobs, leaves, grads if logprobs.ndim else None)]


class Measured:
    """A case's inputs, and what each way came to."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.case = case
        self.hidden = torch.randn(case.N, case.H, device=DEVICE, dtype=case.dtype)
        self.lm_head = torch.randn(case.V, case.H, device=DEVICE, dtype=case.dtype) / case.H**0.5
        self.token_ids = torch.randint(case.V, (case.N,), device=DEVICE)
        self.grads = torch.ones(case.N, device=DEVICE)
        self.product_rows = min(case.N, 4096 if GPU else max(16, 2**22 // case.V))
        self.logits = self.hidden.new_empty(self.product_rows, case.V)
        self.seconds: dict[str, list[float]] = {}
        self.peaks: dict[str, int] = {}
        self.failed: dict[str, str] = {}

    def call(self, op: Op) -> list[Tensor]:
        return run(op, self.hidden, self.lm_head, self.token_ids, self.case.mode, self.grads)

    def product(self) -> Tensor:
        """Logits of as many rows as are fast to take at a time, into memory at hand: the floor's unit."""
        return torch.mm(self.hidden[: self.product_rows], self.lm_head.T, out=self.logits)

    def check(self, op: Op) -> None:
        rows = slice(0, CHECKED)
        hidden, ids = self.hidden[rows], self.token_ids[rows]
        mode = "forward" if self.case.mode == "forward" else "frozen"
        found, expected = (run(way, hidden, self.lm_head, ids, mode, self.grads[rows]) for way in (op, plain))
        if found[0].ndim == 0:
            expected[0] = expected[0].sum()
        for value, right in zip(found, expected, strict=True):
            assert float((value - right).abs().max()) <= 2e-2 * float(right.abs().max())


@lru_cache(maxsize=1)
def measured(case: Case) -> Measured:
    """Check every way, take its peak, then time all of them in turn. The last case's result is kept."""
    gc.collect()
    found = Measured(case)
    ready = {}
    for way in case.ways:
        if missing(way, DEVICE) is not None:
            continue
        try:
            op = BUILDERS[way]()
            found.check(op)
            found.call(op)
            found.peaks[way] = measure.peak_bytes(lambda op=op: found.call(op), DEVICE)
            ready[way] = op
        except Exception as error:  # one peer's failure is not the others'
            found.failed[way] = f"{type(error).__name__}: {error}"
    calls = {way: partial(found.call, op) for way, op in ready.items()} | {"product": found.product}
    timed = {way: partial(measure.seconds_of, call) for way, call in calls.items()}
    rounds = rotate(timed, WARMUP_ROUNDS + ROUNDS)[WARMUP_ROUNDS:]
    found.seconds = {way: [seconds[way] for seconds in rounds] for way in calls}
    return found


CASES = [
    pytest.param(case, way, id=f"{case.name}-{way}", marks=[pytest.mark.full] if case.full else [])
    for case in (gpu_cases() if GPU else cpu_cases())
    for way in case.ways
]


@pytest.mark.benchmark(timer=measure.CLOCK)
@pytest.mark.parametrize(("case", "way"), CASES)
def test_logprobs(benchmark: Any, case: Case, way: str) -> None:
    if reason := missing(way, DEVICE):
        pytest.skip(f"NOT MEASURED: {reason}")
    found = measured(case)
    if "OutOfMemoryError" in found.failed.get(way, ""):
        pytest.skip("NOT MEASURED: out of memory")
    assert way not in found.failed, found.failed[way]
    rounds = iter(found.seconds[way])
    benchmark.pedantic(lambda: measure.CLOCK.advance(next(rounds)), rounds=ROUNDS)
    product = statistics.median(found.seconds["product"]) * case.N / found.product_rows
    floor = PRODUCTS[case.mode] * product
    benchmark.extra_info.update(
        {
            "way": way,
            "mode": case.mode,
            "N": case.N,
            "H": case.H,
            "V": case.V,
            "dtype": str(case.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "peak_MB": found.peaks[way] / 1e6,
            "floor_us": floor * 1e6,
            "share_of_floor": floor / benchmark.stats.stats.median,
            **{f"over_{other}": over(found, way, other) for other in ("plain", "liger", "liger-sum")},
        }
    )


def over(found: Measured, way: str, other: str) -> float | None:
    """A way's time over another's: the median of the rounds' ratios."""
    if other not in found.seconds:
        return None
    return statistics.median(a / b for a, b in zip(found.seconds[way], found.seconds[other], strict=True))
