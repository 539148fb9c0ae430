"""What this installation runs on: versions, devices, and which backend does what and why.

Torch is imported only where a driver is present and can be asked for its devices: the rest is read from files, at once.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from genarm_kernels.native import why as native

from ..models.fused.names import FAMILIES
from .options import ModelOptions

DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # CUDA's, CUDA's under Windows, ROCm's
PACKAGES = ("torch", "triton", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class Device:
    """A CUDA device: name, memory in bytes, compute capability."""

    name: str
    memory: int
    capability: str


@dataclass(frozen=True, slots=True)
class Backend:
    """One part of a step: what runs it here, and why that."""

    part: str
    uses: str
    why: str


@dataclass(frozen=True, slots=True)
class Info:
    """Versions by package (None where it is missing), devices, backends, and the models that were asked for."""

    versions: dict[str, str | None]
    devices: list[Device]
    backends: list[Backend]
    models: list[dict[str, str]]  # of `GuidedDecoder.describe`; none where no model was named

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def collect(options: ModelOptions | None = None) -> Info:
    """Look at this machine and this installation, and at the models where ``options`` name some.

    Raises:
        GenARMError: they cannot be loaded or do not go together.
    """
    devices = _devices()
    versions = {"genarm": _version("genarm"), "python": platform.python_version()}
    versions |= {name: _version(name) for name in PACKAGES}
    models = _models(options) if options is not None else []
    return Info(versions, devices, [_sampling(devices), _cpu_kernels(), *_model_path(devices)], models)


def show(info: Info, console: Console) -> None:
    """Print it as tables."""
    versions = Table("package", "version", title="Versions", title_justify="left")
    for name, version in info.versions.items():
        versions.add_row(name, version or "not installed")
    devices = Table("device", "memory", "capability", title="CUDA devices", title_justify="left")
    for device in info.devices:
        devices.add_row(device.name, f"{device.memory / 2**30:.1f} GiB", device.capability)
    if not info.devices:
        devices.add_row("none", "", "")
    backends = Table("part", "uses", "why", title="Backends", title_justify="left")
    for backend in info.backends:
        backends.add_row(backend.part, backend.uses, backend.why)
    tables = [versions, devices, backends]
    if info.models:
        models = Table("model", "runs on", "decoded by", title="Models", title_justify="left")
        for model in info.models:
            over = f"; takes a preference over {model['preference over']}" if "preference over" in model else ""
            awake = f"; asleep on prompts up to {model['awake from']}" if "awake from" in model else ""
            models.add_row(model["name"], model["runs on"] + over + awake, model["path"])
        tables.append(models)
    for table in tables:
        console.print(table)


def _models(options: ModelOptions) -> list[dict[str, str]]:
    from ..models.sources import model_path, parse_rewards
    from .loading import load  # which imports torch, as loading models has to

    return load(options, model_path(options.base), parse_rewards(options.rewards)).describe()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[Device]:
    if not any(Path(driver).exists() for driver in DRIVERS):
        return []
    import torch

    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"{properties.major}.{properties.minor}"
        found.append(Device(properties.name, properties.total_memory, capability))
    return found


def _sampling(devices: list[Device]) -> Backend:
    if interpreted():
        return Backend("sampling", "Triton interpreter", "TRITON_INTERPRET=1: kernels run in Python, for tests only")
    if devices:
        return Backend("sampling", "Triton kernels", "on CUDA tensors; torch operations on CPU tensors")
    uses = "torch operations" if native.why()[0] is False else "torch operations, kernels in C"
    return Backend("sampling", uses, "no CUDA device: the CPU path draws the same tokens as the kernels")


def interpreted() -> bool:
    """Whether Triton kernels run in its interpreter."""
    if "TRITON_INTERPRET" not in os.environ or importlib.util.find_spec("triton") is None:
        return False
    import triton

    return bool(triton.knobs.runtime.interpret)


def _cpu_kernels() -> Backend:
    runs, why = native.why()
    return Backend("on a CPU", {True: "kernels in C", False: "torch operations", None: "the faster way"}[runs], why)


def _model_path(devices: list[Device]) -> list[Backend]:
    families = ", ".join(sorted(name.removesuffix("ForCausalLM") for name in FAMILIES))
    return [
        Backend(
            f"models: {families}",
            "fused decoder",
            "the base and its LoRA reward models in one pass over shared weights; with hooks, other adapters or "
            "quantised weights as other models",
        ),
        Backend("models: others", "transformers' forward, static cache", "any model that calls attention by name"),
        Backend("models: the rest", "transformers' forward, padded", "masks, positions or caches of the model's own"),
        _flash_attention(devices),
        _graphs(devices),
    ]


def _flash_attention(devices: list[Device]) -> Backend:
    version = _version("flash-attn")
    if version is None:
        return Backend("flash-attn", "not used", "not installed: torch's attention reads prompts")
    if not devices:
        return Backend("flash-attn", "not used", f"{version} is installed; no CUDA device")
    from ..models.fused.flash import why_not  # which imports torch, as devices that were found have

    if (reason := why_not()) is not None:
        return Backend("flash-attn", "not used", f"{version}: {reason}; torch's attention reads prompts")
    return Backend("flash-attn", "prompts", f"{version} is installed; bfloat16 and float16 on CUDA, fused decoder")


def _graphs(devices: list[Device]) -> Backend:
    if not devices:
        return Backend("CUDA graphs", "not used", "no CUDA device: every step is launched from Python")
    return Backend("CUDA graphs", "one per step", 'where every model runs fused; engine="eager" does without')
