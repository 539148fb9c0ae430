"""skinny_linear's kernel and torch's linear on the layers of real models, for the table in prefers_kernel.

    python -m pytest bench/test_linear.py -m "not full"

`share_of_copy` is the bytes that must move, weights once, over the time and the copy bandwidth measured beside it.
`preferred` says what skinny_linear would take. Rows whose layer begins with "residual" are two products with the sum of
the residual and the norm between them, in two kernels or in three, with K adapters on the first. Without a GPU it
measures the kernel in C and torch at the layers of the model whose whole steps bench/test_decode.py measures there.
"""

import itertools
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench import measure
from bench.measure import DEVICE, GPU
from genarm_kernels import Lora, add_rms_norm
from genarm_kernels.layer import linear
from genarm_kernels.layer.embed import embed
from genarm_kernels.layer.residual import COUNTERS, add_linear, normed_linear
from genarm_kernels.native import linear as native

DTYPES = (torch.bfloat16,) if GPU else (torch.bfloat16, torch.float32)
CPU_BYTES = 2**27  # of weights between two reads of the same ones, several times a last-level cache
# Model -> layer -> N, H.
LAYERS = {
    "Llama-3.1-8B": {
        "qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336), "head": (128256, 4096),
    },
    "Llama-3.2-1B": {
        "qkv": (3072, 2048), "o": (2048, 2048), "gate_up": (16384, 2048), "down": (2048, 8192), "head": (128256, 2048),
    },
    "Qwen3-0.6B": {
        "qkv": (4096, 1024), "o": (1024, 2048), "gate_up": (6144, 1024), "down": (1024, 3072), "head": (151936, 1024),
    },
}  # fmt: skip
CPU_LAYERS = {"small": {"gate_up": (5632, 1024), "down": (1024, 2816)}}
# Rows of A below the weights: one and three adapters of rank 16 on q, k and v.
SHRINKS = (0, 48, 144)
ROWS = (1, 2, 4, 8, 16, 32, 64)
FOCUS = "Llama-3.1-8B"
WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ours": linear.linear_by_kernel if GPU else native.rows_linear,
    "torch": F.linear,
}


def cases() -> list[object]:
    found = []
    for model, layers in (LAYERS if GPU else CPU_LAYERS).items():
        for (layer, (N, H)), shrinks, R in itertools.product(layers.items(), SHRINKS if GPU else (0,), ROWS):
            if layer == "head" and shrinks:
                continue
            short = not GPU or (model == FOCUS and R != 2 and shrinks <= (48 if layer == "qkv" else 0))
            name = f"{model} {layer} {N + shrinks}x{H} R={R}"
            found.append(
                pytest.param(model, layer, N + shrinks, H, R, id=name, marks=[] if short else pytest.mark.full)
            )
    return found


def check(y: Tensor, x: Tensor, weight: Tensor) -> None:
    """A share of the columns against float64: close to the roundings of bfloat16."""
    columns = torch.arange(0, len(weight), max(1, len(weight) // 512), device=DEVICE)
    expected = x.double() @ weight[columns].double().T
    assert ((y[:, columns].double() - expected).abs() <= 2**-7 * expected.abs() + 1e-2).all()


@pytest.mark.benchmark(timer=measure.CLOCK)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("model", "layer", "N", "H", "R"), cases())
def test_linear(benchmark, model: str, layer: str, N: int, H: int, R: int, dtype: torch.dtype, way: str) -> None:
    torch.manual_seed(0)
    size = dtype.itemsize * (N * H + R * H + R * N)
    sets = measure.rotation(size).sets if GPU else max(2, -(-CPU_BYTES // size))
    xs = [torch.randn(R, H, device=DEVICE, dtype=dtype) for _ in range(sets)]
    weights = [torch.randn(N, H, device=DEVICE, dtype=dtype) / H**0.5 for _ in range(sets)]
    suits = linear.suits_kernel(xs[0], weights[0]) if GPU else native.suits(xs[0], weights[0])
    benchmark.extra_info.update(
        {
            "way": way,
            "preferred": "kernel" if suits else "torch",
            "model": model,
            "layer": layer,
            "rows": R,
            "N": N,
            "H": H,
            "dtype": str(dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }
    )
    calls = [partial(WAYS[way], x, weight) for x, weight in zip(xs, weights, strict=True)]
    measure.time_calls(
        benchmark, calls, size, lambda ys: [check(*those) for those in zip(ys, xs, weights, strict=True)]
    )


PAIRS = {"o, gate_up": ("o", "gate_up"), "down, qkv": ("down", "qkv")}
RANK, EPS = 16, 1e-5


def make_pair(pair: str, R: int, K: int) -> Callable[[str], Tensor]:
    """What runs one pair of Llama-3.1-8B's products on data of its own, as "ours" or "separate"."""
    layers = LAYERS[FOCUS]
    (N, H), (M, _) = (layers[name] for name in PAIRS[pair])

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16)

    x, first, second = normal(R, H), normal(N + K * RANK, H) / H**0.5, normal(M, N) / N**0.5
    adapters = (torch.arange(R, device=DEVICE) % (K + 1) - 1).to(torch.int32)
    lora = Lora(normal(K, N, RANK) / 4, adapters, (N,)) if K else None
    lengths = torch.zeros(R, dtype=torch.int32, device=DEVICE)
    counters = torch.zeros(COUNTERS, dtype=torch.int32, device=DEVICE)
    residual, _ = embed(torch.arange(R, device=DEVICE)[:, None], normal(R, N), lengths, counters)
    weight = normal(N)

    def run(way: str) -> Tensor:
        if way == "ours":
            add_linear(residual, x, first, None, lora)
            return normed_linear(residual, weight, EPS, second)
        z = linear.linear_by_kernel(x, first)
        return linear.linear_by_kernel(add_rms_norm(z, residual.values, weight, EPS, lora), second)

    return run


def same_pair(pair: str, R: int, K: int) -> Callable[[str], Tensor]:
    torch.manual_seed(0)
    return make_pair(pair, R, K)


@pytest.mark.skipif(not GPU, reason="a CPU has no kernels for it")
@pytest.mark.benchmark(timer=measure.CLOCK)
@pytest.mark.parametrize("way", ["ours", "separate"])
@pytest.mark.parametrize(("pair", "R", "K"), list(itertools.product(PAIRS, (1, 4, 16), (0, 3))))
def test_residual(benchmark, pair: str, R: int, K: int, way: str) -> None:
    (N, H), (M, _) = (LAYERS[FOCUS][name] for name in PAIRS[pair])
    size = 2 * (N * H + M * N + K * RANK * (H + N))
    ours, separate = (same_pair(pair, R, K)(name) for name in ("ours", "separate"))
    torch.testing.assert_close(ours, separate, rtol=2e-2, atol=2e-2)
    sets = [make_pair(pair, R, K) for _ in range(measure.rotation(size).sets)]
    benchmark.extra_info.update({"way": way, "model": FOCUS, "layer": f"residual: {pair}", "rows": R, "K": K})
    measure.time_calls(benchmark, [partial(run, way) for run in sets], size)
