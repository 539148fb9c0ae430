"""A bar of how much of a count is done, on the standard error where that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def counting(words: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function of what is done and the total. Nothing is shown before it is called."""
    console = Console(stderr=True)
    columns = (TextColumn(words), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(words, total=None, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)
