"""Decodes the rows of a run batch by batch. What comes of a row depends on the row, the settings and its line's number,
not on which rows were done before."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

import genarm_kernels

from ..decoder import GuidedDecoder
from ..errors import GenARMError, InvalidArgumentError, PromptError, RewardNameError, RunError
from ..request.guidance import weight_matrix
from ..request.output import GenerationOutput
from .rows import Row, RowId, encode

Result = dict[str, Any]


class Sink(Protocol):
    """Where finished rows go. ``finished`` holds the ids that need not be decoded again."""

    finished: dict[RowId, bool]

    def write(self, row: Mapping[str, Any]) -> None: ...

    def sync(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Task:
    """How the rows of a run are decoded. ``weights`` are the reward models' where a row gives none of its own;
    ``options`` are further keywords of ``GuidedDecoder.generate``."""

    decoder: GuidedDecoder
    weights: dict[str, float]
    seed: int = 0
    chat: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise for what no row could be decoded with, before anything is written."""
        encode(self.decoder.tokenizer, ["x"], self.chat)
        self.decoder.prepare([[0]], weights=self.weights, seed=self.seed, **self.options)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A row ready to decode."""

    row: Row
    ids: list[int]
    weights: dict[str, float]
    seed: int


def run(task: Task, rows: list[Row], sink: Sink, report: Callable[[Result], None]) -> None:
    """Decode every row that ``sink`` has not finished; ``report`` is called with each result once it is written.

    Batches are cut from the whole input, longest prompts first, so that a resumed run decodes the same batches, to the
    last bit; one that was written in part is decoded again, and what is missing of it is written.

    Raises:
        RunError: a batch failed for a reason that is no row's own (out of memory); finished rows are in the sink.
    """
    prepared, failed = _prepare(task, rows)
    decoded = (_decode(task, batch) for batch in _batches(prepared, task.decoder.max_batch_size, sink))
    for results in itertools.chain([failed], decoded):
        for result in results:
            if result["id"] not in sink.finished:
                sink.write(result)
                report(result)
        sink.sync()


def _prepare(task: Task, rows: list[Row]) -> tuple[list[Prepared], list[Result]]:
    """The rows that can be decoded, and the results of those whose prompt or weights cannot be used."""
    good: list[tuple[Row, dict[str, float]]] = []
    failed = []
    for row in rows:
        try:
            if not row.prompt:
                raise PromptError("the prompt is empty: give it some text")
            good.append((row, _weights(task, row.weights)))
        except GenARMError as error:
            failed.append(_failure(row, error))
    encoded = encode(task.decoder.tokenizer, [row.prompt for row, _ in good], task.chat)
    seeds = genarm_kernels.row_seeds(task.seed, max((row.index for row, _ in good), default=0) + 1).tolist()
    prepared = [
        Prepared(row, ids, weights, seeds[row.index]) for (row, weights), ids in zip(good, encoded, strict=True)
    ]
    return prepared, failed


def _weights(task: Task, given: Any) -> dict[str, float]:
    """The default weights with a row's own in their place, such as the decoder takes."""
    if given is None:
        return task.weights
    if not isinstance(given, dict):
        raise InvalidArgumentError(f"weights is {given!r}: write an object of names and numbers")
    weights = dict(task.weights)
    for name, value in given.items():
        if name not in weights:
            known = ", ".join(weights) or "none"
            raise RewardNameError(f"weights names {name!r}, which is not loaded: the reward models are {known}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise InvalidArgumentError(f"the weight of {name!r} is {value!r}: weights are finite numbers")
        weights[name] = float(value)
    beta, base_weight = (task.options.get(name, 1.0) for name in ("beta", "base_weight"))
    weight_matrix(weights, task.decoder.reward_names, beta, base_weight, 1, torch.device("cpu"))
    return weights


def _batches(prepared: list[Prepared], size: int, sink: Sink) -> Iterator[list[Prepared]]:
    """The batches with rows still to do, each of one length as near as may be; the largest shows at once if it fits."""
    ordered = sorted(prepared, key=lambda item: (-len(item.ids), item.row.index))
    for start in range(0, len(ordered), size):
        batch = ordered[start : start + size]
        if any(item.row.id not in sink.finished for item in batch):
            yield batch


def _decode(task: Task, batch: list[Prepared]) -> list[Result]:
    try:
        out = task.decoder.generate(
            [item.ids for item in batch],
            weights=[item.weights for item in batch],
            seed=[item.seed for item in batch],
            return_logprobs=True,
            **task.options,
        )
    except GenARMError as error:
        if not error.rows:
            raise
        return [_failure(item.row, error.rows[index]) for index, item in enumerate(batch)]
    except Exception as error:
        raise _batch_error(error, batch) from error
    return [_result(task, item, out, index) for index, item in enumerate(batch)]


def _result(task: Task, item: Prepared, out: GenerationOutput, index: int) -> Result:
    if index in out.errors:
        return _failure(item.row, out.errors[index])
    tokens = out.tokens[index].tolist()
    assert out.model_logprobs is not None and out.texts is not None
    sums = out.model_logprobs[index, : len(tokens)].double().sum(0).tolist()
    return {
        "id": item.row.id,
        "prompt": item.row.prompt,
        "text": out.texts[index],
        "weights": item.weights,
        "token_count": len(tokens),
        "logprob_sums": {
            name: round(value, 6) if math.isfinite(value) else None
            for name, value in zip(out.model_names, sums, strict=True)
        },
        "finish_reason": out.finish_reasons[index],
    }


def _failure(row: Row, error: GenARMError) -> Result:
    text = re.sub(r"^row \d+[:,] ", "", " ".join(str(error).split()))  # the row of a batch means nothing to a reader
    return {"id": row.id, "prompt": row.prompt, "error": text, "finish_reason": "error"}


def _batch_error(error: Exception, batch: list[Prepared]) -> RunError:
    text = " ".join(str(error).split()) or type(error).__name__
    where = f"a batch of {len(batch)} rows with up to {max(len(item.ids) for item in batch)} tokens failed"
    advice = "finished rows are kept"
    if isinstance(error, MemoryError) or "memory" in text:
        advice += "; lower --batch-size and run the same command again"
    return RunError(f"{where} ({type(error).__name__}: {text[:300]}): {advice}")
