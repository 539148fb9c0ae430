"""Decodes the particle systems of `genarm evaluate gap` into rows that resume, with the seconds that they took.

The first system of each prompt, weights and number of particles is decoded alone, the others in batches of as many rows
as a decoder takes at once: so both ways of decoding are timed, and nothing is decoded for the clock alone but for one
call per number of particles, before which kernels are built, calibrated or captured."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from ..errors import GenARMError
from ..evaluation.cells import Cell
from ..evaluation.gap import Evidence
from ..models.sources import RewardChoice
from ..runs.output import OutputFile
from ..runs.results import Result, failure, result_of
from ..runs.rows import Row, RowKey, RunInput
from ..runs.run import Failed, Prepared, Sink, Task, batch_error, call_options, prepare_rows
from .console import say
from .loading import load
from .options import GenerateOptions
from .outputs import Job, settings_of
from .progress import counting
from .sweeping import Memory

Rows = Mapping[RowKey, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Measuring:
    """What is measured: each prompt's systems at every setting of weights and every number of particles."""

    given: GenerateOptions
    base: str
    rewards: Sequence[RewardChoice]
    cells: Sequence[Cell]
    particles: Sequence[int]
    source: RunInput

    @property
    def job(self) -> Job:
        return Job(self.given, self.base, self.rewards, self.source)

    def settings(self) -> dict[str, Any]:
        """What the rows depend on."""
        settings = settings_of(self.job)
        del settings["weights"]
        return {**settings, "cells": [cell.label for cell in self.cells], "particles": list(self.particles)}

    def rows(self, cell: Cell, particles: int) -> list[Row]:
        """One per system, prompt by prompt: whatever the weights and particles, a sample has the same row seed."""
        return [
            replace(
                row,
                id=_id(row, cell, particles),
                weights=cell.decoder_weights(),
                columns={**row.columns, "prompt_id": row.id, "particles": particles},
            )
            for row in self.source.sampled(self.given.samples).rows
        ]

    def keys(self) -> list[RowKey]:
        return [row.key for cell in self.cells for count in self.particles for row in self.rows(cell, count)]

    def systems(self, rows: Rows) -> tuple[list[Evidence], list[Row]]:
        """The figures of each setting of weights, and the prompts that they are of: those none of whose systems failed.

        Raises:
            GenARMError: there is no such prompt.
        """
        lost = {row["prompt_id"] for row in rows.values() if row["finish_reason"] == "error"}
        kept = [row for row in self.source.rows if row.id not in lost]
        if not kept:
            error = next(row["error"] for row in rows.values() if "error" in row)
            raise GenARMError(f"every prompt has a system that failed, so there is nothing to measure: {error}")
        return [self._systems(cell, kept, rows) for cell in self.cells], kept

    def _systems(self, cell: Cell, prompts: Sequence[Row], rows: Rows) -> Evidence:
        evidence, seconds, tokens = {}, {}, {}
        for count in self.particles:
            found = [
                [rows[_id(row, cell, count), sample + 1] for sample in range(self.given.samples)] for row in prompts
            ]
            values = [[row["log_evidence"] for row in own] for own in found]
            evidence[count] = np.array([[-math.inf if one is None else one for one in own] for own in values])
            tokens[count] = float(np.mean([row["token_count"] for own in found for row in own]))
            seconds[count] = (
                float(np.median([own[0]["seconds"] for own in found])),
                float(np.median([row["seconds"] for own in found for row in own[1:]])),
            )
        return Evidence(cell, evidence, seconds, tokens)


def _id(row: Row, cell: Cell, particles: int) -> str:
    return f"{row.id} {cell.label} N={particles}"


def decode(measuring: Measuring) -> tuple[Rows | None, int]:
    """Decode what the output, if there is one, does not hold yet: all rows, None where it was stopped, and the exit
    status.

    Raises:
        GenARMError: the run cannot start or continue; finished rows are kept.
    """
    path = measuring.given.output
    if path is None:
        memory = Memory()
        _decode(measuring, memory)
        return memory.rows, int(any(memory.finished.values()))
    keys = measuring.keys()
    output = OutputFile(path, measuring.settings(), measuring.given.overwrite)
    try:
        output.inspect(keys, measuring.given.retry_failed)
        if len(output.finished) < len(keys):
            _decode(measuring, output)
            output.arrange(keys)
        return output.rows(), int(any(output.finished.values()))
    except KeyboardInterrupt as interrupt:
        say(f"interrupted: {len(output.finished)} of {len(keys)} systems are in {path}; the same command resumes there")
        return None, int(getattr(interrupt, "status", 130))
    finally:
        output.close()


def _decode(measuring: Measuring, sink: Sink) -> None:
    given = measuring.given
    decoder = load(given.models, measuring.base, measuring.rewards)
    weights = dict.fromkeys(decoder.reward_names, 0.0)
    tasks = {
        count: Task(
            decoder, weights, given.seed, given.chat, given.system, options={**given.decoding, "particles": count}
        )
        for count in measuring.particles
    }
    for task in tasks.values():
        task.check()
    if isinstance(sink, OutputFile):
        sink.begin()
    total = sum(tasks) * len(measuring.cells) * len(measuring.source.rows) * given.samples
    done, warm = 0, set[int]()
    with counting("particles") as report:
        report(done, total)
        for cell in measuring.cells:
            for count, task in tasks.items():
                for call in _calls(prepare_rows(task, measuring.rows(cell, count)), count, given.models.batch_size):
                    if any(item.row.key not in sink.finished for item in call):
                        if count not in warm:
                            _results(task, call)
                            warm.add(count)
                        _write(sink, _results(task, call))
                    done += count * len(call)
                    report(done, total)


def _calls(items: Sequence[Prepared | Failed], particles: int, rows: int) -> Iterator[list[Prepared | Failed]]:
    """Each prompt's first system by itself, then the others, as many at once as make so many rows."""
    for item in items:
        if item.row.sample == 1:
            yield [item]
    size = max(1, rows // particles)
    others = [item for item in items if item.row.sample != 1]
    for _, same in groupby(others, lambda item: item.call if isinstance(item, Prepared) else None):
        group = list(same)
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _write(sink: Sink, results: Sequence[Result]) -> None:
    """What is missing of a call's results."""
    for result in results:
        if (result["id"], result["sample"]) not in sink.finished:
            sink.write(result)
            if result["finish_reason"] == "error":
                say(f"system {result['id']!r} (sample {result['sample']}) failed: {result['error']}")
    sink.sync()


def _results(task: Task, call: Sequence[Prepared | Failed]) -> list[Result]:
    """The rows of one call, in its order."""
    ready = [item for item in call if isinstance(item, Prepared)]
    failed = [failure(item.row, item.error) for item in call if isinstance(item, Failed)]
    if not ready:
        return failed
    started = time.perf_counter()
    try:
        out = task.decoder.generate([item.ids for item in ready], **call_options(ready))
    except GenARMError as error:
        if not error.rows:
            raise
        return failed + [failure(item.row, error.rows[place]) for place, item in enumerate(ready)]
    except Exception as error:
        raise batch_error(error, ready) from error
    seconds = round((time.perf_counter() - started) / len(ready), 6)
    results = [result_of(item.row, item.weights, out, place) for place, item in enumerate(ready)]
    return failed + [{**result, "seconds": seconds} for result in results]
