"""vLLM's worker for its model runner v1, whose sampler tells the table of rows what it has drawn.

The worker is chosen by name in vLLM's configuration, and so is this one, which is the platform's own and nothing more
than a hook behind its sampler.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from vllm.platforms import current_platform
from vllm.utils.import_utils import resolve_obj_by_qualname

from .rows import PLACE, GuidedRows

PREFIX = "TellingWorker_"
AUTO = "auto"  # vLLM's name for the platform's own


def worker_name(given: str) -> str:
    """The name of the worker that tells, on the platform's own (``auto``) or another; ``given`` where there is none."""
    if is_telling(given):
        return given
    plain = _platforms_own() if given == AUTO else given
    return given if plain is None else f"{__name__}.{PREFIX}{plain.encode().hex()}"


def is_telling(name: str) -> bool:
    return name.startswith(f"{__name__}.{PREFIX}")


def _platforms_own() -> str | None:
    if current_platform.is_cpu():
        return "vllm.v1.worker.cpu_worker.CPUWorker"
    return "vllm.v1.worker.gpu_worker.Worker" if current_platform.is_cuda_alike() else None


class _Telling:
    """What comes before the plain worker."""

    vllm_config: Any
    model_runner: Any

    def load_model(self, **settings: Any) -> None:
        super().load_model(**settings)  # type: ignore[misc]
        table: GuidedRows = self.vllm_config.compilation_config.static_forward_context[PLACE]
        self.model_runner.sampler.register_forward_hook(lambda _sampler, _given, output: table.report(output))


@lru_cache
def _worker(name: str) -> type:
    plain = bytes.fromhex(name.removeprefix(PREFIX)).decode()
    return type(name, (_Telling, resolve_obj_by_qualname(plain)), {"__module__": __name__})


def __getattr__(name: str) -> type:
    if not name.startswith(PREFIX):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _worker(name)
