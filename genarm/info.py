"""What this installation runs on: versions, devices, and which backend does what and why."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from rich.table import Table

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
    """Versions by package (None where it is missing), devices, backends."""

    versions: dict[str, str | None]
    devices: list[Device]
    backends: list[Backend]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def collect() -> Info:
    """Look at this machine and this installation."""
    devices = _devices()
    versions = {"genarm": _version("genarm"), "python": platform.python_version()}
    versions |= {name: _version(name) for name in PACKAGES}
    return Info(versions, devices, [_sampling(devices), *_model_path()])


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
    for table in (versions, devices, backends):
        console.print(table)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[Device]:
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
    return Backend("sampling", "torch operations", "no CUDA device: the CPU path draws the same tokens as the kernels")


def interpreted() -> bool:
    """Whether Triton kernels run in its interpreter."""
    if importlib.util.find_spec("triton") is None:
        return False
    import triton

    return bool(triton.knobs.runtime.interpret)


def _model_path() -> list[Backend]:
    flash = _version("flash-attn")
    return [
        Backend(
            "models", "transformers' own forward with a DynamicCache", "any causal LM of transformers runs this way"
        ),
        Backend(
            "flash-attn", "not used", f"{flash} is installed; " * bool(flash) + "this version calls no kernel of it"
        ),
        Backend("CUDA graphs", "not used", "this version has none: every step is launched from Python"),
    ]
