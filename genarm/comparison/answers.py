"""Answers of many methods to the same prompts under the same seeds, one file per method, which resumes.

Methods take turns batch by batch, and who begins moves on, so that whatever else the machine does falls on all of them.
A row is drawn with a seed of its own, so that it does not depend on its batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

import genarm_kernels

from ..errors import GenARMError, RunError
from ..request.output import GenerationOutput
from ..runs.output import OutputFile
from ..runs.rows import Prompt, RowId, RowKey

WARM_TOKENS = 2  # of the call before the first that is timed


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt of a comparison: its place in the file, its id, as it was written, and as the base reads it."""

    index: int
    id: RowId
    prompt: Prompt
    ids: list[int]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method answered to a prompt under a seed.

    ``tokens`` are its ids with EOS. ``seconds`` and ``forwarded`` (tokens by the models' names) are a row's equal share
    of its batch's. ``log_prob`` is Σ log p of the tokens under the distribution they were drawn from, None where the
    method has no such density, or draws nothing.
    """

    method: str
    prompt_id: RowId
    prompt: Prompt
    prompt_ids: list[int]
    seed: int
    text: str
    tokens: list[int]
    seconds: float
    forwarded: Mapping[str, float]
    log_prob: float | None
    finish_reason: str

    @property
    def failed(self) -> bool:
        return self.finish_reason == "error"


class Generate(Protocol):
    """A method with its decoder and settings: prompts' ids and one seed per row to their answers."""

    def __call__(self, inputs: list[list[int]], *, seed: list[int], max_new_tokens: int) -> GenerationOutput: ...


@dataclass(frozen=True, slots=True)
class Contestant:
    """A method ready to run, where its answers go, and what they depend on.

    ``draws``: whether ``logprobs`` of its outputs are those of the distribution that the tokens were drawn from.
    """

    label: str
    generate: Generate
    settings: Mapping[str, Any]
    draws: bool = True


@dataclass(slots=True)
class Answers:
    """The files of a comparison's answers, `answers/METHOD.jsonl` in its folder."""

    folder: Path
    questions: Sequence[Question]
    seeds: Sequence[int]
    overwrite: bool = False
    retry_failed: bool = False
    files: dict[str, OutputFile] = field(default_factory=dict)

    @property
    def keys(self) -> list[RowKey]:
        return [(question.id, seed) for seed in self.seeds for question in self.questions]

    def open(self, settings: Mapping[str, Mapping[str, Any]]) -> int:
        """Look at what is there and say how many answers are missing. ``settings``: what each method's depend on.

        Raises:
            RunError: a file that cannot be written, or is of other settings.
        """
        (self.folder / "answers").mkdir(parents=True, exist_ok=True)
        for label, own in settings.items():
            output = OutputFile(self.folder / "answers" / f"{label}.jsonl", own, self.overwrite)
            self.files[label] = output
            output.inspect(self.keys, self.retry_failed)
        return sum(len(self.keys) - len(output.finished) for output in self.files.values())

    def begin(self) -> None:
        for output in self.files.values():
            output.begin()

    def close(self) -> None:
        for output in self.files.values():
            output.close()

    def read(self) -> list[Answer]:
        """All answers, method by method, in the order of seeds and prompts."""
        return [answer for label, output in self.files.items() for answer in self._read(label, output)]

    def _read(self, label: str, output: OutputFile) -> Iterator[Answer]:
        rows = output.rows()
        for seed in self.seeds:
            for question in self.questions:
                yield _answer(label, question, rows[question.id, seed])


def _answer(label: str, question: Question, row: Mapping[str, Any]) -> Answer:
    return Answer(
        method=label,
        prompt_id=question.id,
        prompt=question.prompt,
        prompt_ids=question.ids,
        seed=row["sample"],
        text=row.get("text", ""),
        tokens=row.get("tokens", []),
        seconds=row.get("seconds", 0.0),
        forwarded=row.get("forwarded", {}),
        log_prob=row.get("log_prob"),
        finish_reason=row["finish_reason"],
    )


def decode(
    contestants: Sequence[Contestant],
    answers: Answers,
    batch_size: int,
    max_new_tokens: int,
    report: Callable[[Mapping[str, Any]], None],
) -> None:
    """Decode every answer that is not there. ``report`` is called with each row once it is written.

    Batches are cut from all prompts, so that a resumed run decodes the same ones; one that was written in part is
    decoded again, and what is missing of it is written.

    Raises:
        RunError: a batch failed for a reason that is no row's own; finished rows are kept.
    """
    warm: set[str] = set()
    starts = range(0, len(answers.questions), batch_size)
    turn = 0
    for seed in answers.seeds:
        for start in starts:
            batch = answers.questions[start : start + batch_size]
            for place in range(len(contestants)):
                contestant = contestants[(place + turn) % len(contestants)]
                output = answers.files[contestant.label]
                if all((question.id, seed) in output.finished for question in batch):
                    continue
                if contestant.label not in warm:
                    _generate(contestant, batch, seed, min(WARM_TOKENS, max_new_tokens))
                    warm.add(contestant.label)
                for row in _rows(contestant, batch, seed, max_new_tokens):
                    if (row["id"], seed) not in output.finished:
                        output.write(row)
                        report({**row, "id": f"{contestant.label}/{row['id']}"})
                output.sync()
            turn += 1


def _rows(contestant: Contestant, batch: Sequence[Question], seed: int, max_new_tokens: int) -> list[dict[str, Any]]:
    """The rows of a batch, each with its share of the seconds and of the tokens forwarded."""
    started = time.perf_counter()
    try:
        out = _generate(contestant, batch, seed, max_new_tokens)
    except GenARMError as error:
        if not error.rows:
            raise
        return [_failure(question, seed, error.rows[place]) for place, question in enumerate(batch)]
    seconds = time.perf_counter() - started
    forwarded = {name: round(count / len(batch), 3) for name, count in out.stats.forwarded.items()}
    return [
        _row(contestant, question, seed, out, place, seconds / len(batch), forwarded)
        for place, question in enumerate(batch)
    ]


def _generate(contestant: Contestant, batch: Sequence[Question], seed: int, max_new_tokens: int) -> GenerationOutput:
    seeds = genarm_kernels.row_seeds(seed, batch[-1].index + 1).tolist()
    try:
        out = contestant.generate(
            [question.ids for question in batch],
            seed=[seeds[question.index] for question in batch],
            max_new_tokens=max_new_tokens,
        )
    except GenARMError:
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise RunError(
            f"{contestant.label}: a batch of {len(batch)} prompts failed ({type(error).__name__}: {text[:300]}): "
            "finished rows are kept; where memory ran out, lower batch_size"
        ) from error
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return out


def _failure(question: Question, seed: int, error: GenARMError) -> dict[str, Any]:
    return {"id": question.id, "sample": seed, "error": str(error), "finish_reason": "error"}


def _row(
    contestant: Contestant,
    question: Question,
    seed: int,
    out: GenerationOutput,
    place: int,
    seconds: float,
    forwarded: Mapping[str, float],
) -> dict[str, Any]:
    if place in out.errors:
        return _failure(question, seed, out.errors[place])
    assert out.texts is not None
    tokens = out.tokens[place].tolist()
    log_prob = None
    is_chosen = out.scores is not None or out.log_evidence is not None  # what was picked is drawn otherwise
    if contestant.draws and not is_chosen and out.logprobs is not None:
        total = float(out.logprobs[place, : len(tokens)].double().sum())
        log_prob = round(total, 6) if math.isfinite(total) else None
    return {
        "id": question.id,
        "sample": seed,
        "text": out.texts[place],
        "tokens": tokens,
        "token_count": len(tokens),
        "seconds": round(seconds, 6),
        "forwarded": dict(forwarded),
        "log_prob": log_prob,
        "finish_reason": out.finish_reasons[place],
    }
