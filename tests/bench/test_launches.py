"""How many kernels a step launches, counted on the engine's own code for a GPU that is not there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.launches import GPU, SETTINGS, Count, count, on_gpu, recorded, step
from genarm_kernels import swiglu
from genarm_kernels.card import CARDS

LARGE = "Llama-3.1-8B"
A_LAYER, BESIDE = 7, 5


@pytest.mark.parametrize(("K", "batch"), [(0, 1), (1, 1), (3, 1), (3, 4)], ids=str)
def test_a_step_of_an_8b_model_launches_so_many_kernels_per_layer_and_beside_them(K: int, batch: int) -> None:
    assert count(LARGE, K, batch) == Count(A_LAYER, BESIDE)


def test_a_model_of_all_layers_launches_what_its_count_says() -> None:
    launches = step(LARGE, 3)
    assert len(launches) == Count(A_LAYER, BESIDE).of(32) == 229 <= 7 * 32 + 8
    assert sum(launch.name == "swiglu_kernel" for launch in launches) == 32


@pytest.mark.parametrize(("K", "batch"), [(1, 1), (3, 4)], ids=str)
def test_reward_models_asleep_on_prompts_run_fused_with_one_launch_more_per_layer(K: int, batch: int) -> None:
    assert count(LARGE, K, batch, rewards="activated") == Count(A_LAYER + 1, BESIDE)


def test_what_rows_share_is_read_where_it_lies_by_all_layers() -> None:
    launches = step(LARGE, 3, layers=2, rewards="activated")
    names = [launch.name for launch in launches]
    read, added = (
        [one.arguments for one in launches if one.name == f"{name}_kernel"] for name in ("prefixes", "attention")
    )
    assert len(read) == len(added) == 2 and names.index("prefixes_kernel") + 1 == names.index("attention_kernel")
    for name in ("order", "bounds", "shared", "extents", "lengths"):
        assert read[0][name] is read[1][name]
    for name in ("sums", "peaks", "totals", "shared", "extents", "lengths"):
        assert read[0][name] is added[0][name]
    assert not any(one.name in ("prefixes_kernel", "argsort", "searchsorted") for one in step(LARGE, 3, layers=1))
    assert not {"argsort", "sort", "searchsorted", "_local_scalar_dense"} & {*names}


@pytest.mark.parametrize(("settings", "more"), [("top-k 50 + top-p 0.9", 4), ("min-p 0.05", 2), ("log-probs", 0)])
def test_filters_and_log_probs_launch_so_many_more(settings: str, more: int) -> None:
    assert count(LARGE, 3, **SETTINGS[settings]) == Count(A_LAYER, BESIDE + more)


def test_more_rows_than_the_kernels_are_for_take_nine_per_layer_with_the_library_s_products() -> None:
    launches = step("Qwen3-0.6B", 3, 16, layers=1)
    assert sum(launch.name in ("mm", "linear") for launch in launches) == 5
    assert count("Qwen3-0.6B", 3, 16).a_layer == 9


def launched(call: Any) -> list[str]:
    with on_gpu(), recorded() as launches:
        call(torch.empty(4, 6, device=GPU))
    return [launch.name for launch in launches]


def test_what_starts_a_kernel_is_counted_and_what_does_not_is_not() -> None:
    assert launched(lambda x: x[1:, None].transpose(0, 2).reshape(-1).detach()) == ["clone"]
    assert launched(lambda x: torch.empty_like(x)[0].view(2, 3)) == []
    assert launched(lambda x: x.copy_(x[:1]).add_(1)) == ["copy_", "add_"]
    # torch makes a tensor of a number it chooses, which a kernel fills.
    assert launched(lambda x: torch.where(x > 0, x, 0.0)) == ["gt", "scalar_tensor", "where"]
    assert launched(lambda x: torch.zeros(0, device=x.device) + 1) == []
    assert launched(lambda x: x @ x.t()) == ["mm"]
    assert launched(swiglu) == ["swiglu_kernel"]


def test_a_launch_is_cut_for_the_card_and_knows_its_tensors() -> None:
    with on_gpu(CARDS["H100 PCIe"]), recorded() as launches:
        x = torch.empty(4, 2048, device=GPU, dtype=torch.bfloat16)
        swiglu(x)
    (launch,) = launches
    assert launch.grid == (4, 2) and launch.bytes == 2 * 4 * (2048 + 1024)
    assert launch.arguments["z"] is x and launch.arguments["WIDTH"] == 1024
    assert x.device.type == "meta"  # outside of the block it is what it was
