"""Texts on the standard output as they are written: nothing but text there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import GenARMError
from ..runs.results import Result, failure, result_of
from ..runs.rows import Row
from ..runs.run import (
    Failed,
    Prepared,
    Task,
    batch_error,
    batches,
    call_options,
    decode,
    prepare_rows,
)
from .console import Tally, figures, say, visible

BOLD, PLAIN = "\x1b[1m", "\x1b[0m"


@dataclass(slots=True)
class Shown:
    """One text while it is written: what waits to be shown of it, and whether it is finished."""

    prompt: str
    waiting: str = ""
    done: bool = False
    failed: bool = False


class Reader:
    """Shows ``count`` texts one after the other, however they are decoded together: the first one that is not finished
    appears as it is written, those after it when their turn comes. Several are told apart by lines with their numbers.
    """

    def __init__(self, count: int, echo: bool) -> None:
        self._count = count
        self._echo = echo
        self._texts: list[Shown] = []
        self._place = 0  # of the text that is being shown
        self._begun = False
        self._line_ended = True

    def add(self, row: Row) -> Shown:
        """Another text, begun with the row's prompt where prompts are shown."""
        self._texts.append(Shown(row.prompt if self._echo and isinstance(row.prompt, str) else ""))
        return self._texts[-1]

    def show(self) -> None:
        """Write all that can be written by now."""
        while self._place < len(self._texts):
            text = self._texts[self._place]
            if not text.failed or self._begun:
                self._begin(text)
                self._write(text.waiting)
                text.waiting = ""
                if not text.done:
                    break
                self.end()
            self._place += 1
            self._begun = False
        sys.stdout.flush()

    def end(self) -> None:
        """End the line."""
        if not self._line_ended:
            self._write("\n")

    def _begin(self, text: Shown) -> None:
        if self._begun:
            return
        self._begun = True
        if self._count > 1:
            self._write(("\n" if self._place else "") + f"--- {self._place + 1} of {self._count} ---\n")
        bold = sys.stdout.isatty() and bool(text.prompt)
        sys.stdout.write(BOLD if bold else "")
        self._write(text.prompt)
        sys.stdout.write(PLAIN if bold else "")

    def _write(self, text: str) -> None:
        if text:
            sys.stdout.write(visible(text))
            self._line_ended = text.endswith("\n")


def stream(task: Task, rows: Sequence[Row], reader: Reader, stats: bool) -> Tally:
    """Decode every row and show its text; failed rows are reported on the standard error, and under ``stats`` what
    became of each.

    Raises:
        RunError: a batch failed for a reason that is no row's own (out of memory).
    """
    tally = Tally()
    for batch in batches(task, prepare_rows(task, rows)):
        texts = [reader.add(item.row) for item in batch]
        for text, item in zip(texts, batch, strict=True):
            text.done = text.failed = isinstance(item, Failed)
        results = iter(_decode(task, batch, texts, reader, stats))
        reader.show()
        for item in batch:
            result = failure(item.row, item.error) if isinstance(item, Failed) else next(results)
            tally.add(result)
            _report(item.row, result, stats)
    return tally


def _decode(
    task: Task, batch: Sequence[Prepared | Failed], shown: Sequence[Shown], reader: Reader, stats: bool
) -> list[Result]:
    """The results of the rows that can be decoded, whose texts were shown as they came."""
    items = [item for item in batch if isinstance(item, Prepared)]
    texts = [text for text, item in zip(shown, batch, strict=True) if isinstance(item, Prepared)]
    if not items:
        return []
    if task.is_whole:
        return _at_once(task, items, texts, reader)
    try:
        ids = [item.ids for item in items]
        request = task.decoder.prepare(ids, return_logprobs=stats, **call_options(items))
        for row in request.errors:
            texts[row].failed = texts[row].done = True
        running = task.decoder.start(request)
        for step in running.steps():
            assert step.texts is not None
            for text, piece, done in zip(texts, step.texts, step.finished.tolist(), strict=True):
                text.waiting += piece
                text.done = done
            reader.show()
        out = running.output()
    except GenARMError as error:
        if not error.rows:
            raise
        for text in texts:
            text.done = text.failed = True
        return [failure(item.row, error.rows[index]) for index, item in enumerate(items)]
    except OSError:  # of the standard output: whoever read has enough, or its disk is full
        raise
    except Exception as error:
        raise batch_error(error, items) from error
    return [result_of(item.row, item.weights, out, index) for index, item in enumerate(items)]


def _at_once(task: Task, items: Sequence[Prepared], texts: Sequence[Shown], reader: Reader) -> list[Result]:
    """The same where texts are known when all of them are written."""
    results = decode(task, items)
    for text, item in zip(texts, items, strict=True):
        text.waiting = results[item.row.key].get("text", "")
        text.done, text.failed = True, results[item.row.key]["finish_reason"] == "error"
    reader.show()
    return [results[item.row.key] for item in items]


def _report(row: Row, result: Result, stats: bool) -> None:
    name = f"prompt {row.id}" + (f", text {row.sample}" if row.sample else "")
    if result["finish_reason"] == "error":
        say(f"{name} failed: {result['error']}")
    elif stats:
        say(f"{name}: {figures(result)}")
