"""Kernels are launched where their tensors are."""

import torch

from genarm_kernels.dispatch import on_device


def test_launches_go_to_the_device_that_is_named() -> None:
    block = on_device(torch.device("cuda", 1))
    assert isinstance(block, torch.cuda.device)
    assert block.idx == 1


def test_a_cpu_is_no_place_to_launch_at() -> None:
    with on_device(torch.device("cpu")), on_device(torch.device("cpu")):
        pass
