"""The guided model's part in vLLM's model runner v2, which asks a model for the class of its state."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from .slots import SlotTable
from .tables import StepTable


class GuidedState(DefaultModelState):
    """What runner v2 keeps of any model of text, and the weights of each request."""

    def __init__(self, vllm_config: Any, model: Any, encoder_cache: Any, device: torch.device) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        self._table = SlotTable(model.guidance, self.max_num_reqs, model.vocab_size, device)
        model.table = self._table

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """A request that arrives, or comes back after it had to make room for others."""
        super().add_request(req_index, new_req_data)
        params = new_req_data.sampling_params
        self._table.put(req_index, None if params is None else params.extra_args)

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        """Called before each forward pass, of which the logits are the next that are combined."""
        self._table.choose(input_batch.idx_mapping_np)
        inputs: dict[str, Any] = super().prepare_inputs(input_batch, req_states)
        return inputs

    def custom_sampler(self, sampler: Any) -> tuple[Any, None]:
        """vLLM's own sampler, which tells the table what it has drawn. No drafts are verified here."""
        return _TellingSampler(sampler, self._table), None


class _TellingSampler:
    """In everything but the call the sampler that it holds. Of NaN it says what the table knows of the rows."""

    compute_nans = True

    def __init__(self, sampler: Any, table: StepTable) -> None:
        sampler.compute_nans = False
        self._sampler, self._table = sampler, table

    def __call__(self, logits: torch.Tensor, input_batch: Any) -> Any:
        output = self._table.report(self._sampler(logits, input_batch))
        output.num_nans = self._table.status
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)
