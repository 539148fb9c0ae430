"""flash-attn, tried once: what is installed under its name need not be it, nor run here."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

_failures: list[str] = []  # of calls


def flash_attn() -> Any:
    """The module, None where there is none that works."""
    return None if why_not() else _imported()


def why_not() -> str | None:
    """Why flash-attn is not used, None where it is."""
    found = _imported()
    return found if isinstance(found, str) else next(iter(_failures), None)


def give_up(error: Exception) -> None:
    """A call failed: the others go without, and it is said once."""
    if not _failures:
        warnings.warn(
            f"flash-attn is installed and does not work here ({type(error).__name__}: {error}): torch's attention "
            "reads prompts instead. Install a wheel of this torch and CUDA, or uninstall it",
            stacklevel=2,
        )
    _failures.append(f"it does not work here: {error}")


@cache
def _imported() -> Any:
    """The module, or why there is none in words. flash-attn 4 installs its own functions below the same name."""
    if find_spec("flash_attn") is None:
        return "not installed"
    try:
        module = import_module("flash_attn")
    except Exception as error:  # a wheel of another torch fails as it likes
        return f"it cannot be imported: {' '.join(str(error).split())}"
    return module if hasattr(module, "flash_attn_with_kvcache") else "what is installed has no flash_attn_with_kvcache"
