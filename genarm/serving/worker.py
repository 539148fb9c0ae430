"""vLLM's worker, whose sampler tells the table of rows what it has drawn, and which can zero blocks of cache.

The worker is chosen by name in vLLM's configuration, and so is this one, which is the platform's own and little more
than a hook behind the sampler of its model runner v1 (runner v2 asks the model's state for one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor
from vllm.platforms import current_platform
from vllm.utils.import_utils import resolve_obj_by_qualname

from .combine import mark
from .rows import PLACE, GuidedRows
from .tables import StepTable

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
        table: GuidedRows | None = self.vllm_config.compilation_config.static_forward_context.get(PLACE)
        if table is not None:
            self.model_runner.sampler.register_forward_hook(_Told(table), with_kwargs=True)

    def initialize_from_config(self, kv_cache_config: Any) -> None:
        """Whatever the models, the scheduler has their blocks of cache zeroed: get what vLLM does that with."""
        super().initialize_from_config(kv_cache_config)  # type: ignore[misc]
        if not current_platform.is_cpu():
            self.model_runner._init_kv_zero_meta()
            return
        layers = self.vllm_config.compilation_config.static_forward_context.values()
        blocks = _Blocks([getattr(layer, "kv_cache", None) for layer in layers], kv_cache_config.num_blocks)
        self.model_runner.kv_block_zeroer = blocks  # in runner v2
        self.model_runner._zero_block_ids = blocks.zero_block_ids  # in runner v1


class _Told:
    """Behind the sampler of runner v1, which counts the NaN of logits when it has drawn."""

    def __init__(self, table: StepTable) -> None:
        self._table = table

    def __call__(self, _sampler: Any, given: Sequence[Any], named: Mapping[str, Any], output: Any) -> Any:
        logits = named["logits"] if "logits" in named else given[0]
        status = self._table.status
        if status is not None and len(status) == len(logits):  # vLLM measures itself with other numbers of rows
            mark(logits, status)
        return self._table.report(output)


class _Blocks:
    """The caches of all layers on a CPU, [N, …] each or [N · parts, …], where vLLM zeroes blocks of layers that are
    alike, or runs a kernel of Triton's."""

    def __init__(self, caches: Sequence[Any], count: int) -> None:
        tensors = [cache for cache in caches if isinstance(cache, Tensor)]
        self._caches = [cache.view(count, -1, *cache.shape[1:]) for cache in tensors if len(cache)]

    def zero_block_ids(self, block_ids: list[int]) -> None:
        for cache in self._caches:
            cache[block_ids] = 0


@lru_cache
def _worker(name: str) -> type:
    plain = bytes.fromhex(name.removeprefix(PREFIX)).decode()
    return type(name, (_Telling, resolve_obj_by_qualname(plain)), {"__module__": __name__})


def __getattr__(name: str) -> type:
    if not name.startswith(PREFIX):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _worker(name)
