"""What a step's tail reads and writes, checked once for all steps, and a draw that fits it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from genarm_kernels.sampling.arguments import GuidedSample


class Progress(NamedTuple):
    """B rows on their way: at most n tokens each, of V ids, under M models. Where a row's own texts and figures are not
    kept, there is None."""

    step: Tensor  # [1] int64, how many tokens there are: the column of the next one
    arrived: Tensor  # [1] int32, 0 between steps: a kernel's own
    tokens: Tensor  # [B] int64, the last ones drawn, of ended rows too
    positions: Tensor  # [B] int64
    generated: Tensor  # [B, n] int64
    reasons: Tensor  # [B] int64, how rows have ended (rules.py)
    report: Tensor  # [3, B] int64: tokens, reasons and status of the last step
    eos_ids: Tensor  # [E] int64
    stops: Tensor  # [S, L] int64: stop sequences aligned on the right, ANY_TOKEN on their left
    seen: Tensor | None = None  # [B, V] bool, the ids that a row has had; its rows may lie apart
    logprobs: Tensor | None = None  # [B, n] float32
    model_logprobs: Tensor | None = None  # [B, n, M] float32, beside logprobs
    log_normalizers: Tensor | None = None  # [B, n] float32

    def checked(self) -> "Progress":
        """The same.

        Raises:
            ValueError: shapes, dtypes, devices or strides that do not fit together.
        """
        for name, dimensions in {"generated": 2, "eos_ids": 1, "stops": 2, "seen": 2, "model_logprobs": 3}.items():
            value: Tensor | None = getattr(self, name)
            if value is not None and value.ndim != dimensions:
                raise ValueError(f"{name} has shape {list(value.shape)}: expected {dimensions} dimensions")
        if (self.logprobs is None) != (self.model_logprobs is None):
            raise ValueError("logprobs are kept beside model_logprobs: pass both or neither")
        for name, value in zip(self._fields, self, strict=True):
            if value is not None:
                self._check(name, value)
        return self

    def _check(self, name: str, value: Tensor) -> None:
        (B, n), device = self.generated.shape, self.generated.device
        shapes = {"step": (1,), "arrived": (1,), "generated": (B, n), "report": (3, B), "eos_ids": value.shape}
        shapes |= {"stops": value.shape, "seen": (B, value.shape[-1]), "logprobs": (B, n), "log_normalizers": (B, n)}
        shapes |= {"model_logprobs": (B, n, value.shape[-1])}
        dtypes = {"arrived": torch.int32, "seen": torch.bool}
        dtypes |= dict.fromkeys(["logprobs", "model_logprobs", "log_normalizers"], torch.float32)
        shape, dtype = shapes.get(name, (B,)), dtypes.get(name, torch.int64)
        check_tensor(name, value, shape, dtype, f"{device}, where generated is", device)


def check_tensor(
    name: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype, where: str, device: torch.device
) -> None:
    """Refuse a tensor of another shape or dtype, on another device, or with strides; rows of ``seen`` may lie apart.

    Raises:
        ValueError: it is one. ``where`` names the device.
    """
    if (value.shape, value.dtype, value.device) != (shape, dtype, device):
        raise ValueError(
            f"{name} is {value.dtype} {list(value.shape)} on {value.device}: expected {dtype} {list(shape)} on {where}"
        )
    if not (value.is_contiguous() or (name == "seen" and value.stride(1) == 1)):
        raise ValueError(f"{name} has strides {value.stride()}: expected a contiguous tensor")


def check_sample(sample: GuidedSample, progress: Progress) -> None:
    """In every step, so shapes and no more.

    Raises:
        ValueError: a draw of other rows or models, or without what progress keeps.
    """
    rows, kept = progress.tokens.shape, progress.model_logprobs
    if sample.tokens.shape != rows or sample.status.shape != rows:
        _refuse("tokens and status", rows)
    if kept is not None:
        if sample.logprobs is None or sample.logprobs.shape != rows:
            _refuse("logprobs", rows)
        if sample.model_logprobs is None or sample.model_logprobs.shape != rows + kept.shape[2:]:
            _refuse("model_logprobs", rows + kept.shape[2:])
    if progress.log_normalizers is not None and (
        sample.log_normalizers is None or sample.log_normalizers.shape != rows
    ):
        _refuse("log_normalizers", rows)


def contiguous(sample: GuidedSample) -> GuidedSample:
    """The same values as kernels read them."""
    fields: Any = (None if value is None else value.contiguous() for value in sample)
    return GuidedSample(*fields)


def _refuse(what: str, shape: tuple[int, ...]) -> None:
    raise ValueError(f"the draw does not fit the rows' progress, which takes {what} of shape {list(shape)}")
