"""The element-wise steps on a GPU, all three together: real sizes, rows in any batch, graphs."""

import pytest
import step_cases as cases
import torch
from gpu_cases import captured
from torch import Tensor

from genarm_kernels import Lora, add_rms_norm, rotary_store, swiglu

pytestmark = pytest.mark.device
CUDA = "cuda"
BF16 = torch.bfloat16


@pytest.mark.parametrize(
    ("R", "A", "rank", "dtype", "layout"),
    cases.sampled((1, 0, 16), (1, 1, 16), (17, 3, 16), (64, 3, 64), (5, 2, 3), (1, 0, 16), (17, 1, 16), (64, 0, 16),
                  (5, 3, 64)),
)  # fmt: skip
def test_real_sizes_agree_with_the_oracle(R: int, A: int, rank: int, dtype: torch.dtype, layout: str) -> None:
    for N in (4096, 5120, 896):
        cases.check_norm(R, N, dtype, A, rank, layout, CUDA)
    for width in (14336, 2816, 77):
        cases.check_swiglu(R, width, dtype, A, rank, layout, CUDA)
    for H, H_kv, D in ((32, 8, 128), (14, 2, 64), (3, 1, 96)):
        for norm in (False, True):
            cases.check_rotary(R, H, H_kv, D, dtype, A, rank, layout, CUDA, norm=norm)


def test_tokens_of_real_sizes_go_to_their_rows() -> None:
    at = {"positions": [-1, 12, 3, 11, 0, -(2**31)], "rows": [5, 0, 7, 2, 7, 1]}
    for layout in cases.LAYOUTS:
        cases.check_rotary(6, 32, 8, 128, BF16, 2, 16, layout, CUDA, norm=True, **at)


class Steps:
    """The three steps of a layer on some rows; every call starts from the same residual and empty caches."""

    def __init__(self, R: int, A: int) -> None:
        self.widths = {"norm": (4096,), "rotary": (4096, 1024, 1024), "swiglu": (14336, 14336)}
        self.adapters = {name: cases.make_lora(R, w, A, 16, BF16, CUDA) for name, w in self.widths.items()}
        self.z = {
            name: cases.make_rows(R, cases.columns(w, self.adapters[name]), BF16, CUDA)
            for name, w in self.widths.items()
        }
        self.residual = cases.noise(R, 4096, seed=9).to(CUDA, BF16)
        self.weight = torch.ones(4096, dtype=BF16, device=CUDA)
        self.angles = cases.make_angles(12, 128, CUDA)
        self.positions = torch.arange(R, device=CUDA) % 12

    def __call__(self, rows: slice = slice(None)) -> list[Tensor]:
        adapters = {
            name: lora and Lora(lora.up, lora.adapters[rows], lora.widths) for name, lora in self.adapters.items()
        }
        z = {name: values[rows] for name, values in self.z.items()}
        residual = self.residual[rows].clone()
        normed = add_rms_norm(z["norm"], residual, self.weight, 1e-5, adapters["norm"])
        caches = cases.make_caches(len(residual), 12, 8, 128, BF16, CUDA, "padded")
        query = rotary_store(z["rotary"], *self.angles, self.positions[rows], *caches, 32, adapters["rotary"])
        return [residual, normed, query, *caches, swiglu(z["swiglu"], adapters["swiglu"])]


@pytest.mark.parametrize("A", [0, 3])
def test_a_row_does_not_depend_on_its_batch(A: int) -> None:
    steps = Steps(64, A)
    whole = steps()
    for size in (1, 17):
        for start in (0, 1, 13, 46):
            rows = slice(start, start + size)
            for ours, theirs in zip(steps(rows), whole, strict=True):
                assert torch.equal(ours, theirs[rows])


def test_a_row_without_an_adapter_is_as_without_any() -> None:
    with_adapters, without = Steps(4, 3), Steps(4, 0)
    for name, z in without.z.items():
        z.copy_(with_adapters.z[name][:, : z.shape[1]])
    assert int(with_adapters.adapters["norm"].adapters[0]) == -1
    for ours, theirs in zip(with_adapters(), without(), strict=True):
        assert torch.equal(ours[0], theirs[0])


def test_a_replayed_graph_follows_its_inputs() -> None:
    steps = Steps(4, 2)
    graph, out = captured(steps)
    for turn in range(3):
        for z in steps.z.values():
            z.mul_(0.5).add_(turn)
        steps.positions.add_(1).remainder_(14)
        for lora in steps.adapters.values():
            lora.adapters.copy_(lora.adapters.roll(1))
        graph.replay()
        for ours, theirs in zip(out, steps(), strict=True):
            assert torch.equal(ours, theirs)


def test_a_cache_may_lie_beyond_2_to_the_31_elements() -> None:
    if torch.cuda.mem_get_info()[0] < 12e9:
        pytest.skip("NOT RUN: 12 GB of free memory are needed")
    cache = torch.zeros(2, 2**20 + 8, 8, 128, dtype=BF16, device=CUDA)
    cos, sin = torch.ones(2**20 + 8, 64, device=CUDA), torch.zeros(2**20 + 8, 64, device=CUDA)
    z = cases.make_rows(1, 48 * 128, BF16, CUDA)
    at = torch.tensor([2**20 + 7], device=CUDA)
    rotary_store(z, cos, sin, at, cache, torch.zeros_like(cache), 32, rows=torch.tensor([1], device=CUDA))
    assert torch.equal(cache[1, -1], z[0, 4096:5120].view(8, 128))
    assert not cache[0].any()
