"""How models given by path are read: dtype, device, and what goes through to transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import torch

from ..errors import InvalidArgumentError
from .files import HubOptions

DTYPES = {
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
    "float32": torch.float32,
    "fp32": torch.float32,
}


class LoadOptions(TypedDict, total=False):
    """Keywords that go through to transformers' ``from_pretrained``, whose documentation describes them.

    ``revision`` to ``quantization_config`` are the base's own; ``token`` to ``force_download`` hold for whatever is
    fetched from the hub. ``torch_dtype`` is another name of ``dtype``.
    """

    revision: str
    code_revision: str
    variant: str
    attn_implementation: str
    device_map: Any
    max_memory: Any
    offload_folder: Any
    offload_buffers: bool
    quantization_config: Any
    token: str | bool
    cache_dir: Any
    local_files_only: bool
    force_download: bool
    torch_dtype: Any


EVERYWHERE = ("token", "cache_dir", "local_files_only", "force_download")
OF_FILES = (*EVERYWHERE, "revision")
# What says which files of a repository are meant, and so holds for that one alone.
OF_REPOSITORY = ("revision", "code_revision", "variant")


@dataclass(frozen=True, slots=True)
class Source:
    """How models given by path are read. ``options`` go through to transformers."""

    dtype: torch.dtype
    device: torch.device
    trust_remote_code: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hub(self) -> HubOptions:
        """Those of the options that say where files are."""
        return {name: value for name, value in self.options.items() if name in OF_FILES}

    @property
    def places(self) -> bool:
        """Whether the options say where weights lie, or in what form, so that nothing is to be moved afterwards."""
        return any(self.options.get(name) is not None for name in ("device_map", "quantization_config"))

    def keywords(self) -> dict[str, Any]:
        """The options as ``from_pretrained`` takes them: what is quantised is made where it is to lie."""
        placed = {"device_map": {"": self.device}} if self.places else {}
        return {**placed, **{name: value for name, value in self.options.items() if value is not None}}

    def of_base(self) -> Source:
        """The same for the model behind an adapter, which is another repository."""
        return replace(self, options={key: one for key, one in self.options.items() if key not in OF_REPOSITORY})

    def of_rewards(self) -> Source:
        """The same for reward models beside a base."""
        return replace(self, options={key: one for key, one in self.options.items() if key in EVERYWHERE})


def make_source(
    dtype: str | torch.dtype, device: str | torch.device, trust_remote_code: bool, options: Mapping[str, Any]
) -> Source:
    """Check all of it.

    Raises:
        InvalidArgumentError: an unknown keyword, a dtype or device that is none, two that contradict each other.
    """
    kept = dict(options)
    unknown = sorted(kept.keys() - LoadOptions.__annotations__.keys())
    if unknown:
        raise InvalidArgumentError(
            f"from_pretrained knows no {unknown[0]!r}: beside its own arguments it takes "
            f"{', '.join(LoadOptions.__annotations__)}; load the model yourself and pass it to GuidedDecoder for more"
        )
    other = kept.pop("torch_dtype", None)
    if other is not None:
        if dtype != "auto":
            raise InvalidArgumentError("dtype and torch_dtype are one setting, and both are given: leave one out")
        dtype = other
    if kept.get("device_map") is not None and device != "auto":
        raise InvalidArgumentError(
            "device and device_map both say where the base lies: leave device out; reward models go where the base's "
            "forward pass begins"
        )
    where = resolve_device(device)
    return Source(resolve_dtype(dtype, where), where, trust_remote_code, kept)


def resolve_device(device: str | torch.device) -> torch.device:
    """A device that is there; "auto" is CUDA where available, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        raise InvalidArgumentError(f"device is {device!r}: pass 'auto', 'cpu', 'cuda' or 'cuda:N'") from None
    if resolved.type not in {"cpu", "cuda"}:
        raise InvalidArgumentError(f"device is {device!r}: guided decoding runs on 'cpu' and 'cuda'")
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise InvalidArgumentError("device is 'cuda', but torch sees no CUDA device here: pass device='cpu' or 'auto'")
    return resolved


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """A floating dtype; "auto" is bfloat16 on CUDA and float32 on the CPU."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    resolved = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if not isinstance(resolved, torch.dtype) or resolved not in DTYPES.values():
        raise InvalidArgumentError(f"dtype is {dtype!r}: pass 'auto', 'bfloat16', 'float16' or 'float32'")
    return resolved
