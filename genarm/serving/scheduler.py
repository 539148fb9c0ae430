"""vLLM's scheduler, which ends a request whose row could not be decoded with an error that names the model.

vLLM's model runners report the number of NaN in each row of logits where they are told to
(``VLLM_COMPUTE_NANS_IN_LOGITS``), and draw from such a row all the same. In place of that number they report the row's
status here (``combine``), and this scheduler, which the configuration names, ends the request and does not take the
token. Rows beside it go on.

NaN in keys and values outlive their request, and reach whoever has its blocks of cache next, through the part of them
that is not written yet and counts for nothing: 0 times NaN. So every block is zeroed before it is given away, as vLLM
does for models with a recurrent state.
"""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.request import RequestStatus

from .combine import reason
from .model_logprobs import BASE
from .settings import KEY, ServedGuidance
from .worker import is_telling

NAME = f"{__name__}.guided_scheduler"  # for vLLM's scheduler_cls
COUNTING = "VLLM_COMPUTE_NANS_IN_LOGITS"
logger = logging.getLogger(__name__)


class _Ending:
    """What comes before a scheduler of vLLM's."""

    vllm_config: Any
    _status: dict[str, int]

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        counts = model_runner_output.num_nans_in_logits or {}
        self._status = {request: count for request, count in counts.items() if count}
        return super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]

    def _update_request_with_output(self, request: Any, new_token_ids: list[int], **settings: Any) -> Any:
        """The tokens of a step that the request keeps, and whether it has ended."""
        found = super()._update_request_with_output(request, new_token_ids, **settings)  # type: ignore[misc]
        status = self._status.get(request.request_id)
        if status is None:
            return found
        guidance = ServedGuidance.from_dict(getattr(self.vllm_config.model_config.hf_config, KEY))
        request.status, request.resumable = RequestStatus.FINISHED_ERROR, False
        request.stop_reason = reason(f"request {request.request_id}", status, [BASE, *guidance.names])
        logger.error("it was ended with an error: %s", request.stop_reason)
        return [], True


class _GuidedScheduler(_Ending, Scheduler):
    pass


class _GuidedAsyncScheduler(_Ending, AsyncScheduler):
    pass


class _Zeroed(KVCacheConfig):
    needs_kv_cache_zeroing = True


def guided_scheduler(*, vllm_config: Any, kv_cache_config: Any, **settings: Any) -> Any:
    """The scheduler that vLLM would have made for this configuration, and which does what is said above."""
    made: Any = _GuidedAsyncScheduler if vllm_config.scheduler_config.async_scheduling else _GuidedScheduler
    if is_telling(vllm_config.parallel_config.worker_cls):
        kv_cache_config = _Zeroed(**{one.name: getattr(kv_cache_config, one.name) for one in fields(kv_cache_config)})
    return made(vllm_config=vllm_config, kv_cache_config=kv_cache_config, **settings)
