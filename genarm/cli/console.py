"""What a run shows: one-line messages and a progress bar on the standard error, results on the standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from unicodedata import category

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..runs.output import row_line
from ..runs.rows import COUNTS, RowKey


def say(text: str, console: Console | None = None) -> None:
    """One line on the standard error, whatever the text and however narrow the terminal."""
    line = Text(f"genarm: {' '.join(text.split())}")
    (console or Console(stderr=True)).print(line, soft_wrap=True, highlight=False)


@dataclass(slots=True)
class Tally:
    """What this run has done: rows written, those that failed, tokens drawn, and since when."""

    rows: int = 0
    failed: int = 0
    tokens: int = 0
    drafts: list[int] = field(default_factory=lambda: [0] * len(COUNTS))
    started: float = field(default_factory=time.perf_counter)

    def add(self, result: Mapping[str, Any]) -> None:
        self.rows += 1
        self.failed += result["finish_reason"] == "error"
        self.tokens += result.get("token_count", 0)
        self.drafts = [sum(pair) for pair in zip(self.drafts, (result.get(name, 0) for name in COUNTS), strict=True)]

    def speed(self) -> str:
        seconds = time.perf_counter() - self.started
        return f"{self.tokens / max(seconds, 1e-9):,.0f} tokens/s"

    def summary(self) -> str:
        seconds = time.perf_counter() - self.started
        drafts = f"; {draft_figures(*self.drafts)}" if self.drafts[-1] else ""
        return f"{self.tokens:,} tokens in {seconds:.1f} s ({self.speed()}){drafts}"


class Display:
    """A progress bar where the standard error is a terminal, nothing elsewhere; failed rows are reported on either."""

    def __init__(self, total: int) -> None:
        self.console = Console(stderr=True)
        self.tally = Tally()
        columns = (TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
        self.progress = Progress(
            *columns,
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
            redirect_stdout=False,
        )
        self.task = self.progress.add_task("rows", total=total, speed="")

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def report(self, result: Mapping[str, Any]) -> None:
        """Note a row that was just written."""
        self.tally.add(result)
        if result["finish_reason"] == "error":
            sample = f" (sample {result['sample']})" if "sample" in result else ""
            say(f"row {result['id']!r}{sample} failed: {result['error']}", self.console)
        self.progress.update(self.task, advance=1, speed=self.tally.speed())


@dataclass(slots=True)
class Lines:
    """Results as JSONL on the standard output."""

    finished: dict[RowKey, bool] = field(default_factory=dict)

    def write(self, row: Mapping[str, Any]) -> None:
        sys.stdout.buffer.write(row_line(row))

    def sync(self) -> None:
        sys.stdout.flush()


def visible(text: str) -> str:
    """Text without the control characters that would drive the terminal."""
    return "".join("\ufffd" if category(letter) == "Cc" and letter not in "\n\t" else letter for letter in text)


def figures(result: Mapping[str, Any]) -> str:
    """What became of a text, in a line: why it ended, its tokens, its log-probability under each model, and what a
    method or particles say of it."""
    sums = ", ".join(f"{name} {_figure(value)}" for name, value in result.get("logprob_sums", {}).items())
    found = [f"log p: {sums}"] if sums else []
    known = {"score": "score", "log_evidence": "log evidence"}
    found += [f"{text} {_figure(result[name])}" for name, text in known.items() if name in result]
    found += [draft_figures(*(result[name] for name in COUNTS))] if COUNTS[0] in result else []
    guided = f" ({result['guided_count']} of them guided)" if "guided_count" in result else ""
    return f"{result['finish_reason']}, {result['token_count']} tokens{guided}{''.join(f', {one}' for one in found)}"


def draft_figures(drafted: int, accepted: int, steps: int) -> str:
    """What came of speculation, in words; the mean is of tokens per step, the one that no draft gave included."""
    mean = 1 + accepted / steps if steps else 0.0
    return f"{drafted:,} drafted, {accepted:,} accepted in {steps:,} steps (mean accepted length {mean:.2f})"


def _figure(value: float | None) -> str:
    return "−∞" if value is None else f"{value:.1f}".replace("-", "−")
