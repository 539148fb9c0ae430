"""Decodes the rows of a run batch by batch. What comes of a row depends on the row, the settings and its place in the
input, not on which rows were done before."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from ..decoder import GuidedDecoder
from ..errors import GenARMError, InvalidArgumentError, RewardNameError, RunError
from ..request.guidance import weight_matrix
from ..request.output import GenerationOutput
from ..terminal import admit_terminal
from .encode import RowEncoder
from .method import NamedMethod
from .results import Result, failure, result_of
from .rows import Row, RowKey, refuse_settings
from .seeds import run_seeds, seed_of

# Settings that each row of a batch may have its own value of -> what they are where neither row nor run sets them.
PER_ROW: dict[str, float] = {
    "beta": 1.0, "base_weight": 1.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "base_min_p": 0.0,
    "base_top_p": 1.0, "repetition_penalty": 1.0,
}  # fmt: skip


class Sink(Protocol):
    """Where finished rows go. ``finished`` holds the keys of those that need not be decoded again."""

    finished: dict[RowKey, bool]

    def write(self, row: Mapping[str, Any]) -> None: ...

    def sync(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Task:
    """How the rows of a run are decoded.

    ``weights`` are the reward models' where a row gives none of its own; ``options`` are further keywords of
    ``GuidedDecoder.generate``; ``method`` decodes instead of it where there is one. Rows come out in their own order,
    or ``as_completed``: the longest prompts first.
    ``tokens``: whether a result has the ids that were drawn, too.
    ``chosen``: which options somebody chose; a method has defaults of its own, which the others' values would hide.
    """

    decoder: GuidedDecoder
    weights: dict[str, float]
    seed: int = 0
    chat: bool = False
    system: str | None = None
    as_completed: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    tokens: bool = False
    method: NamedMethod | None = None
    chosen: frozenset[str] = frozenset()

    @property
    def is_whole(self) -> bool:
        """Whether a text is known only once it is whole: one that a method writes, or that is drawn from particles."""
        return self.method is not None or "particles" in self.options

    def encoder(self) -> RowEncoder:
        return RowEncoder.of(self.decoder.tokenizer, self.chat, self.system)

    def check(self) -> None:
        """Raise for what no row could be decoded with, before anything is written."""
        self.encoder()
        options = {**self.options, "preferences": self._some_preferences()}  # rows may bring what the run lacks
        request = self.decoder.prepare([[0]], weights=self.weights, seed=self.seed, **options)
        if "terminal" in options:
            admit_terminal(self.decoder, options["terminal"], request)
        if self.method is not None:
            self.generate([[self.decoder.facts().bos_id or 0]], {**self.options, "max_new_tokens": 1, "seed": [0]})

    def generate(
        self, prompts: Sequence[Sequence[int]], options: dict[str, Any], own: Collection[str] = ()
    ) -> GenerationOutput:
        """Decode prompts with the keywords of a call; by the method, if there is one, which is told only what somebody
        chose: the run, or its rows by settings of their ``own``."""
        if self.method is None:
            return self.decoder.generate(prompts, return_logprobs=True, **options)
        silent = {**PER_ROW, "guide_when": None}
        chosen = {*self.chosen, *own}
        kept = {
            name: value
            for name, value in options.items()
            if name in chosen or name not in silent or value != silent[name]
        }
        if all(weight == 1.0 for row in kept.get("weights", ()) for weight in row.values()):
            kept.pop("weights", None)
        return self.method.generate(self.decoder, prompts, kept)

    def _some_preferences(self) -> dict[str, Any]:
        conditioned = self.decoder.facts().conditioned.items()
        equal = {name: dict.fromkeys(one.names, 1 / len(one.names)) for name, one in conditioned}
        return {**equal, **self.options.get("preferences", {})}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A row ready to decode: its prompt's ids, its weights by name, its row seed, its keywords of ``generate``."""

    row: Row
    ids: list[int]
    weights: dict[str, float]
    seed: int
    options: dict[str, Any]

    @property
    def call(self) -> tuple[object, ...]:
        """What one call has in common: rows that differ in it are decoded in calls of their own."""
        return self.options.get("max_new_tokens"), repr(self.options.get("stop"))


@dataclass(frozen=True, slots=True)
class Failed:
    """A row that cannot be decoded."""

    row: Row
    error: GenARMError


def run(task: Task, rows: list[Row], sink: Sink, report: Callable[[Result], None]) -> None:
    """Decode every row that ``sink`` has not finished; ``report`` is called with each result once it is written.

    Batches are cut from the whole input, so that a resumed run decodes the same batches, to the last bit; one that was
    written in part is decoded again, and what is missing of it is written.

    Raises:
        RunError: a batch failed for a reason that is no row's own (out of memory); finished rows are in the sink.
    """
    for batch in batches(task, prepare_rows(task, rows)):
        if all(item.row.key in sink.finished for item in batch):
            continue
        results = decode(task, [item for item in batch if isinstance(item, Prepared)])
        for item in batch:
            if item.row.key not in sink.finished:
                result = failure(item.row, item.error) if isinstance(item, Failed) else results[item.row.key]
                sink.write(result)
                report(result)
        sink.sync()


def prepare_rows(task: Task, rows: Sequence[Row]) -> list[Prepared | Failed]:
    """Each row ready to decode, or with what is wrong with its prompt, weights or settings."""
    encoder = task.encoder()
    seeds = run_seeds(task.seed, rows)
    found: list[Prepared | Failed] = []
    for row in rows:
        try:
            ids, weights, options = encoder.encode(row), _weights(task, row), _options(task, row)
        except GenARMError as error:
            found.append(Failed(row, error))
            continue
        seed = seed_of(row, seeds, options.pop("seed", None))
        found.append(Prepared(row, ids, weights, seed, options))
    return found


def batches(task: Task, items: list[Prepared | Failed]) -> Iterator[list[Prepared | Failed]]:
    """The rows in the order they come out in, as many at a time as the decoder takes. The longest prompts first make
    batches of about one length, of which the largest shows at once whether it fits."""
    if task.as_completed:
        items = sorted(items, key=lambda item: -len(item.ids) if isinstance(item, Prepared) else -math.inf)
    most = max(1, task.decoder.max_batch_size // task.options.get("particles", 1))
    batch: list[Prepared | Failed] = []
    size = 0
    for item in items:
        batch.append(item)
        size += isinstance(item, Prepared)
        if size == most:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def call_options(items: Sequence[Prepared]) -> dict[str, Any]:
    """The keywords of one call for these rows: one value where all have the same, else one per row."""
    options = dict(items[0].options)
    for name, default in PER_ROW.items():
        values = [item.options.get(name, default) for item in items]
        if name in options or any(value != default for value in values):
            options[name] = values[0] if len(set(values)) == 1 else values
    if any(item.options.get("preferences") for item in items):
        options["preferences"] = [item.options.get("preferences", {}) for item in items]
    gates = [item.options.get("guide_when") for item in items]
    options.pop("guide_when", None)
    if any(gates):
        options["guide_when"] = gates
    return {
        **options,
        "weights": [item.weights for item in items],
        "seed": [item.seed for item in items],
    }


def _weights(task: Task, row: Row) -> dict[str, float]:
    """The default weights with a row's own in their place, such as the decoder takes."""
    given = row.weights
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


def _options(task: Task, row: Row) -> dict[str, Any]:
    """The run's settings with a row's own in their place, such as the decoder takes."""
    own = dict(row.settings)
    refuse_settings(own)
    for name, value in own.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name not in ("stop", "preferences", "guide_when") and not is_number:
            raise InvalidArgumentError(f"{name} is {value!r}: write a number")
    if "preferences" in own:
        if not isinstance(own["preferences"], dict):
            raise InvalidArgumentError(
                f"preferences is {own['preferences']!r}: write {{reward model: {{objective: share}}}}"
            )
        own["preferences"] = {**task.options.get("preferences", {}), **own["preferences"]}
    options = {**task.options, **own}
    if own or task.decoder.facts().conditioned:  # one check for a row as for a call
        gate = {"guide_when": [options["guide_when"]]} if "guide_when" in options else {}
        task.decoder.prepare([[0]], **{**options, **gate, "weights": _weights(task, row)})
    return options


def decode(task: Task, items: Sequence[Prepared]) -> dict[RowKey, Result]:
    """The results of a batch by key."""
    calls: dict[tuple[object, ...], list[Prepared]] = {}
    for item in items:
        own = None if task.method is None else frozenset(item.row.settings)  # the others have the method's defaults
        calls.setdefault((item.call, own), []).append(item)
    return {item.row.key: result for call in calls.values() for item, result in _call(task, call)}


def _call(task: Task, items: list[Prepared]) -> list[tuple[Prepared, Result]]:
    try:
        out = task.generate([item.ids for item in items], call_options(items), items[0].row.settings)
    except GenARMError as error:
        if not error.rows:
            raise
        return [(item, failure(item.row, error.rows[index])) for index, item in enumerate(items)]
    except Exception as error:
        raise batch_error(error, items) from error
    return [(item, result_of(item.row, item.weights, out, index, task.tokens)) for index, item in enumerate(items)]


def batch_error(error: Exception, batch: Sequence[Prepared]) -> RunError:
    text = " ".join(str(error).split()) or type(error).__name__
    where = f"a batch of {len(batch)} rows with up to {max(len(item.ids) for item in batch)} tokens failed"
    advice = "finished rows are kept"
    if isinstance(error, MemoryError) or "memory" in text:
        advice += "; lower --batch-size and run the same command again"
    return RunError(f"{where} ({type(error).__name__}: {text[:300]}): {advice}")
