"""The combination of logits and the race by the C kernels: cpu.py's steps, a row's bits its own."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED
from genarm_kernels.native.choice import library
from genarm_kernels.native.library import threads
from genarm_kernels.sampling.arguments import GROUP_SIZE, Inputs


class _Combination(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("logits", "strides", "weights", "bias", "examined")),
        *((name, ctypes.c_int64) for name in ("M", "R", "V", "groups", "bias_stride")),
        *((name, ctypes.c_void_p) for name in ("scores", "status")),
    ]


def library_for(inputs: Inputs) -> ctypes.CDLL | None:
    """The kernels for a call on CPU tensors, where they run here and all logits are of one dtype they have."""
    if INTERPRETED or inputs.logits[0].device.type != "cpu":
        return None
    dtypes = {logits.dtype for logits in inputs.logits}
    return library(dtypes.pop()) if len(dtypes) == 1 else None


def combine(kernels: ctypes.CDLL, inputs: Inputs, examined: Tensor) -> tuple[Tensor, Tensor]:
    """s = bias + Σ w_m z_m -> scores [R, whole groups] float32, −inf where excluded and beyond V, and status [R] int32.

    ``examined`` [R, M] bool: whether NaN or +inf among a model's logits counts.
    """
    R, M, groups = inputs.batch_size, len(inputs.logits), inputs.groups
    scores = torch.empty(R, groups * GROUP_SIZE, dtype=torch.float32, device="cpu")
    status = torch.zeros(R, dtype=torch.int32, device="cpu")
    weights, bias, examined = inputs.weights.contiguous(), inputs.bias, examined.contiguous()
    pointers, strides = _places(inputs)
    arguments = _Combination(
        ctypes.addressof(pointers), ctypes.addressof(strides), weights.data_ptr(),
        None if bias is None else bias.data_ptr(), examined.data_ptr(),
        M, R, inputs.vocab_size, groups, 0 if bias is None else bias.stride(0), scores.data_ptr(), status.data_ptr(),
    )  # fmt: skip
    kernels.combine_scores(ctypes.addressof(arguments), threads())
    return scores, status


def race(
    kernels: ctypes.CDLL, kept: Tensor, inverse_temperature: Tensor, inputs: Inputs
) -> tuple[Tensor, Tensor, Tensor]:
    """A group by its mass, then a token of it; kept [R, whole groups] -> [R] int64, and peaks and sums [R, groups]."""
    R, groups = kept.shape[0], inputs.groups
    tokens = torch.empty(R, dtype=torch.int64, device="cpu")
    peaks, sums = torch.empty(2, R, groups, dtype=torch.float32, device="cpu")
    kept, inverse = kept.contiguous(), inverse_temperature.contiguous()
    seeds, positions = inputs.seeds.contiguous(), inputs.positions.contiguous()
    kernels.race(
        kept.data_ptr(), R, groups, inverse.data_ptr(), seeds.data_ptr(), positions.data_ptr(), tokens.data_ptr(),
        peaks.data_ptr(), sums.data_ptr(), threads(),
    )  # fmt: skip
    return tokens, peaks, sums


def group_masses(kernels: ctypes.CDLL, values: Tensor, inverse_temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Peaks and sums [R, groups] of values [R, whole groups], −inf where excluded."""
    values, inverse = values.contiguous(), inverse_temperature.contiguous()
    R, groups = values.shape[0], values.shape[1] // GROUP_SIZE
    peaks, sums = torch.empty(2, R, groups, dtype=torch.float32, device="cpu")
    kernels.group_masses(values.data_ptr(), R, groups, inverse.data_ptr(), peaks.data_ptr(), sums.data_ptr(), threads())
    return peaks, sums


def model_masses(kernels: ctypes.CDLL, inputs: Inputs, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Peaks and sums [M, R, groups] of the models' own logits at temperature 1; empty where not ``wanted`` [M] bool."""
    R, M, groups = inputs.batch_size, len(inputs.logits), inputs.groups
    peaks, sums = torch.empty(2, M, R, groups, dtype=torch.float32, device="cpu")
    pointers, strides = _places(inputs)
    kernels.model_masses(
        ctypes.addressof(pointers), ctypes.addressof(strides), wanted.data_ptr(), M, R, inputs.vocab_size, groups,
        peaks.data_ptr(), sums.data_ptr(), threads(),
    )  # fmt: skip
    return peaks, sums


def row_totals(kernels: ctypes.CDLL, peaks: Tensor, sums: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Peaks and sums [R, groups], inverse temperatures [R] -> the largest peaks and logs of the mass at them [R]."""
    R, groups = peaks.shape
    tops, logs = torch.empty(2, R, dtype=torch.float32, device="cpu")
    inverse = inverse.contiguous()
    kernels.row_totals(
        peaks.data_ptr(), sums.data_ptr(), R, groups, inverse.data_ptr(), tops.data_ptr(), logs.data_ptr()
    )
    return tops, logs


def _places(inputs: Inputs) -> tuple[ctypes.Array[ctypes.c_void_p], ctypes.Array[ctypes.c_int64]]:
    """Where the models' logits lie, and how far apart their rows do."""
    M = len(inputs.logits)
    pointers = (ctypes.c_void_p * M)(*(logits.data_ptr() for logits in inputs.logits))
    return pointers, (ctypes.c_int64 * M)(*(logits.stride(0) for logits in inputs.logits))
