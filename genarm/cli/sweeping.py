"""Decodes the cells of a Pareto sweep, a prompt's in one batch, into one output that resumes.

Rows of one prompt stand together and fill whole batches, so that every model reads a prompt once for all its cells.
Each cell draws with the same row seeds, those that `genarm generate` with its weights would draw with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import nn

from ..decoder import GuidedDecoder
from ..errors import UnsupportedAdapterError
from ..evaluation.cells import SOUP, Cell
from ..evaluation.choices import Choice
from ..evaluation.pareto_texts import Texts
from ..evaluation.soups import decoder_with, on_the_base, soup
from ..models.adapters import LoraAdapter, read_adapter
from ..models.causal import inner_model
from ..models.files import adapter_folder, is_adapter
from ..models.sources import RewardChoice, fingerprint
from ..runs.output import OutputFile
from ..runs.rows import Row, RowKey, RunInput
from ..runs.run import Sink, Task, run
from .console import Display, say
from .loading import load
from .options import GenerateOptions
from .outputs import Job, settings_of

ROWS = 64  # about so many at once, where one prompt's are fewer


@dataclass(frozen=True, slots=True)
class Decoded:
    """What came of a sweep: rows [P][C][N], None where it was stopped, and the exit status."""

    texts: Texts | None
    status: int


@dataclass(slots=True)
class Memory:
    """Rows of a run that is not written to a file."""

    rows: dict[RowKey, Mapping[str, Any]] = field(default_factory=dict)
    finished: dict[RowKey, bool] = field(default_factory=dict)

    def write(self, row: Mapping[str, Any]) -> None:
        key = (row["id"], row["sample"]) if "sample" in row else row["id"]
        self.rows[key], self.finished[key] = row, row["finish_reason"] == "error"

    def sync(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Sweeping:
    """A sweep that can be decoded: its models, its cells and its prompts."""

    given: GenerateOptions
    base: str
    rewards: Sequence[Choice]
    policies: Sequence[Choice]
    cells: Sequence[Cell]
    source: RunInput

    @property
    def objectives(self) -> tuple[str, ...]:
        return tuple(choice.name for choice in self.rewards)

    @property
    def job(self) -> Job:
        return Job(self.given, self.base, [RewardChoice(one.name, one.path, 1.0) for one in self.rewards], self.source)

    def settings(self) -> dict[str, Any]:
        """What the rows depend on."""
        settings = settings_of(self.job)
        del settings["weights"]
        policies = {f"policy {one.name}": one.path for one in self.policies}
        content = {f"content of policy {one.name}": fingerprint(one.path) for one in self.policies}
        return {**settings, **policies, **content, "cells": [cell.label for cell in self.cells]}

    def rows(self, cells: Sequence[Cell]) -> list[Row]:
        """The rows of these cells, prompt by prompt."""
        return [self._row(row, cell) for sampled in self._prompts() for cell in cells for row in sampled]

    def row_keys(self) -> list[list[list[RowKey]]]:
        """[P][C][N] keys of all rows."""
        return [[[self._row(row, cell).key for row in rows] for cell in self.cells] for rows in self._prompts()]

    def _prompts(self) -> list[list[Row]]:
        rows = self.source.sampled(self.given.samples).rows
        return [list(group) for _, group in groupby(rows, lambda row: row.id)]

    @staticmethod
    def _row(row: Row, cell: Cell) -> Row:
        """A cell's row of a prompt's: of its own id, and of the same seed in every cell."""
        alone = {"base_weight": 0.0, "beta": 1.0} if cell.family == "policies" else {}
        columns = {"prompt_id": row.id, "family": cell.family, "cell": dict(zip(cell.names, cell.weights, strict=True))}
        return replace(
            row,
            id=f"{row.id} {cell.label}",
            weights=cell.decoder_weights(),
            settings={**row.settings, **alone},
            columns={**row.columns, **columns},
        )


def decode(sweeping: Sweeping) -> Decoded:
    """Decode what the output, if there is one, does not hold yet.

    Raises:
        GenARMError: the run cannot start or continue; finished rows are kept.
    """
    path = sweeping.given.output
    if path is None:
        sink = Memory()
        with Display(_count(sweeping)) as display:
            _decode(sweeping, sink, display)
        return _decoded(sweeping, sink.rows, sink.finished)
    keys = [key for cells in sweeping.row_keys() for rows in cells for key in rows]
    output = OutputFile(path, sweeping.settings(), sweeping.given.overwrite)
    try:
        output.inspect(keys, sweeping.given.retry_failed)
        if len(output.finished) < len(keys):
            with Display(len(keys) - len(output.finished)) as display:
                _decode(sweeping, output, display)
            output.arrange(keys)
        return _decoded(sweeping, output.rows(), output.finished)
    except KeyboardInterrupt as interrupt:
        say(f"interrupted: {len(output.finished)} of {len(keys)} rows are in {path}; the same command resumes there")
        return Decoded(None, int(getattr(interrupt, "status", 130)))
    finally:
        output.close()


def _count(sweeping: Sweeping) -> int:
    return len(sweeping.source.rows) * sweeping.given.samples * len(sweeping.cells)


def _decoded(sweeping: Sweeping, rows: Mapping[RowKey, Mapping[str, Any]], failed: Mapping[RowKey, bool]) -> Decoded:
    texts = [[[rows[key] for key in own] for own in cells] for cells in sweeping.row_keys()]
    return Decoded(texts, int(any(failed.values())))


def _decode(sweeping: Sweeping, sink: Sink, display: Display) -> None:
    """The guided cells with one decoder, then the cells of each average with one of its own."""
    guided = [cell for cell in sweeping.cells if cell.family == "guided"]
    models = replace(sweeping.given.models, batch_size=_rows_at_once(sweeping, len(guided)))
    decoder = load(models, sweeping.base, sweeping.job.rewards)
    _check_averages(sweeping, decoder)
    task = _task(sweeping, decoder)
    task.check()
    if isinstance(sink, OutputFile):
        sink.begin()
    run(task, sweeping.rows(guided), sink, display.report)
    for cells, adapter in _averages(sweeping, decoder.base_model):
        rows = sweeping.rows(cells)
        if any(row.key not in sink.finished for row in rows):
            beside = decoder_with(decoder, SOUP, adapter, _rows_at_once(sweeping, len(cells)))
            run(_task(sweeping, beside), rows, sink, display.report)


def _rows_at_once(sweeping: Sweeping, cells: int) -> int:
    """As many rows as are whole prompts', if the command line does not say how many."""
    one = cells * sweeping.given.samples
    asked = sweeping.given.models.batch_size
    if asked and asked < one:
        say(
            f"the {one} texts of a prompt are more than --batch-size {asked}: every part of them reads the prompt again"
        )
    if asked:
        return asked // one * one or asked
    return one * max(1, ROWS // one)


def _task(sweeping: Sweeping, decoder: GuidedDecoder) -> Task:
    given = sweeping.given
    weights = dict.fromkeys(decoder.reward_names, 0.0)
    return Task(decoder, weights, given.seed, given.chat, given.system, options=dict(given.decoding), tokens=True)


def _check_averages(sweeping: Sweeping, decoder: GuidedDecoder) -> None:
    """Raise for adapters that cannot be averaged, before anything is decoded."""
    averaged = list(sweeping.policies)
    if any(cell.family == "soups" for cell in sweeping.cells):
        on_the_base(decoder)
        averaged += sweeping.rewards
    for choice in averaged:
        _adapter(choice).fit(inner_model(decoder.base_model))


def _averages(sweeping: Sweeping, base: nn.Module) -> Iterator[tuple[list[Cell], LoraAdapter]]:
    """Every average of adapters, made when it is asked for, and the cells that are decoded with it."""
    for family, choices in (("soups", sweeping.rewards), ("policies", sweeping.policies)):
        cells = [cell for cell in sweeping.cells if cell.family == family]
        if cells:
            adapters = [_adapter(choice) for choice in choices]
            for shares in dict.fromkeys(cell.shares for cell in cells):
                yield [cell for cell in cells if cell.shares == shares], soup(adapters, shares, base)


def _adapter(choice: Choice) -> LoraAdapter:
    if not is_adapter(choice.path):
        raise UnsupportedAdapterError(
            f"{choice.path}: {choice.name} is a full model, and a soup averages LoRA adapters"
        )
    return read_adapter(Path(adapter_folder(choice.path)))
