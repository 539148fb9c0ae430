"""Each request's weights on the device, in the order of vLLM's batch.

vLLM (model runner v1) tells a logits processor which request lies in which row of the batch before each forward pass.
This processor changes no logits: it keeps the weights of those rows, which the guided model reads when it combines.
It also validates requests where they arrive, so that a wrong one is answered there and never reaches the batch. And
where a request asks for every model's log-probabilities, it keeps the step's logits until the sampler has drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from ..errors import InvalidArgumentError
from .model_logprobs import own_columns, put, raised, token_logprobs
from .settings import ServedGuidance, asks

PREFIX = "GuidedRows_"
PLACE = "genarm.rows"  # in the engine's static forward context, where the model finds its processor


class _Told(NamedTuple):
    """A request's weights, and the columns of its own log-probabilities where it asks for every model's."""

    weights: list[float]
    own: int | None


class _Asking(NamedTuple):
    """The rows [A] that ask, and their own columns [A], of which the largest is ``most``."""

    rows: Tensor
    own: Tensor
    most: int


class GuidedRows(LogitsProcessor):
    """The table of weights [rows, 1 + K]. A subclass per server carries its guidance, since vLLM validates by class.

    ``seeds``: whether requests may bring one. On a CPU vLLM ends with an error where it reads a prompt in part and has
    to take back the draw of a generator, which a CPU's cannot. ``tells``: whether the worker's sampler reports to it.
    """

    guidance: ClassVar[ServedGuidance]
    seeds: ClassVar[bool]
    tells: ClassVar[bool]

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        rows = vllm_config.scheduler_config.max_num_seqs
        self._default = self.guidance.row(None)
        self._host = torch.tensor([self._default] * rows, dtype=torch.float32, pin_memory=is_pin_memory)
        self._device = self._host.to(device, copy=True)
        self._requests: dict[int, _Told] = {}
        self._count = 0
        self._asking: _Asking | None = None
        self._logits: list[Tensor] = []
        self._vocab_size = vllm_config.model_config.get_vocab_size()
        self._used = [True] * len(self._default)
        vllm_config.compilation_config.static_forward_context[PLACE] = self

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise InvalidArgumentError, which vLLM answers with status 400, for what cannot be decoded."""
        cls.guidance.row(sampling_params.extra_args)
        if sampling_params.seed is not None and not cls.seeds:
            raise InvalidArgumentError(
                "this server reads long prompts in parts, and vLLM on a CPU cannot keep a request's seed then: leave "
                "the seed out, or start the server with --max-num-batched-tokens at least as large as --max-model-len"
            )
        if sampling_params.prompt_logprobs is not None:
            raise InvalidArgumentError(
                "prompt_logprobs (echo with logprobs) is not supported in guided decoding: leave it out, or score with "
                "GuidedDecoder.score"
            )
        if asks(sampling_params.extra_args):
            if not cls.tells:
                raise InvalidArgumentError("model_logprobs are not built for this kind of device: leave them out")
            raised(sampling_params, 1 + len(cls.guidance.rewards))

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch. Removals come before additions, and moves last, as vLLM orders them."""
        if batch_update is None:
            return
        requests = self._requests
        for row in batch_update.removed:
            requests.pop(row, None)
        for row, params, _prompt, _output in batch_update.added:
            own = own_columns(params.extra_args) if asks(params.extra_args) else None
            requests[row] = _Told(self.guidance.row(params.extra_args), own)
        for source, target, direction in batch_update.moved:
            moved, other = requests.pop(source, None), requests.pop(target, None)
            if moved is not None:
                requests[target] = moved
            if other is not None and direction == MoveDirectionality.SWAP:
                requests[source] = other
        self._count = batch_update.batch_size
        self._upload()

    def _upload(self) -> None:
        lost = [row for row in range(self._count) if row not in self._requests]
        if lost or len(self._requests) != self._count:
            raise RuntimeError(
                f"guided decoding lost track of vLLM's batch: {self._count} rows, weights for "
                f"{sorted(self._requests)}; please report this with your vLLM version"
            )
        asking = {row: told.own for row, told in sorted(self._requests.items()) if told.own is not None}
        self._asking = self._rows_that_ask(asking) if asking else None
        if not self._count:
            return
        rows = [self._requests[row].weights for row in range(self._count)]
        self._used = [bool(asking) or any(column) for column in zip(*rows, strict=True)]
        self._host[: self._count] = torch.tensor(rows, dtype=torch.float32)
        self._device[: self._count].copy_(self._host[: self._count], non_blocking=True)

    def _rows_that_ask(self, asking: Mapping[int, int]) -> _Asking:
        table = torch.tensor([list(asking), list(asking.values())], pin_memory=self._host.is_pinned())
        rows, own = table.to(self._device.device, non_blocking=True)
        return _Asking(rows, own, max(asking.values()))

    def weights(self, rows: int) -> Tensor:
        """The weights of the batch's rows, [rows, 1 + K] float32; the server's own while vLLM measures itself.

        Raises:
            RuntimeError: the batch has another number of rows, whose weights would be others'.
        """
        if self._count and rows != self._count:
            raise RuntimeError(f"guided decoding got logits of {rows} rows for a batch of {self._count} requests")
        return self._device[:rows]

    @property
    def used(self) -> list[bool]:
        """For each model, the base first, whether any row gives it a weight, or asks for what it says."""
        return self._used

    def keep(self, logits: Mapping[int, Tensor]) -> None:
        """The step's logits [B, V_m] by model's column, until ``report``; nothing is kept where no row asks."""
        self._logits = [logits[column] for column in range(len(self._used))] if self._asking is not None else []

    def report(self, output: Any) -> Any:
        """The sampler's output, with every model's log-probability of the token in the rows that ask."""
        if self._asking is None or not self._logits:
            return output
        rows, own, most = self._asking
        tokens = output.sampled_token_ids[rows, 0].long()
        values = token_logprobs(self._logits, rows, tokens, self._vocab_size)
        self._logits = []
        told = output.logprobs_tensors
        ids, logprobs = put(told.logprob_token_ids, told.logprobs, rows, own, most, values)
        output.logprobs_tensors = told._replace(logprob_token_ids=ids, logprobs=logprobs)
        return output

    def apply(self, logits: Tensor) -> Tensor:
        return logits

    def is_argmax_invariant(self) -> bool:
        return True


def processor_name(guidance: ServedGuidance, seeds: bool, tells: bool) -> str:
    """The name by which vLLM loads the processor of this guidance in any process: MODULE:CLASS."""
    return f"{__name__}:{PREFIX}{json.dumps([asdict(guidance), seeds, tells]).encode().hex()}"


@lru_cache
def _processor(name: str) -> type[GuidedRows]:
    told, seeds, tells = json.loads(bytes.fromhex(name.removeprefix(PREFIX)))
    members = {"guidance": ServedGuidance.from_dict(told), "seeds": seeds, "tells": tells, "__module__": __name__}
    return type(name, (GuidedRows,), members)


def __getattr__(name: str) -> type[GuidedRows]:
    if not name.startswith(PREFIX):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _processor(name)
