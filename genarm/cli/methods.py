"""`genarm methods`: the decoding methods there are, and their settings."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from .. import methods


def show(name: str | None, console: Console) -> int:
    """All methods as a table, or one with its whole documentation.

    Raises:
        InvalidArgumentError: there is no method of this name.
    """
    if name is not None:
        console.print((methods.get(name).__doc__ or "").strip(), markup=False, soft_wrap=True)
        console.print(f"\nsettings: {_settings(name) or 'none'}", markup=False, soft_wrap=True)
        return 0
    table = Table(box=None, pad_edge=False)
    for column in ("method", "settings", "what it does"):
        table.add_column(column, overflow="fold")
    for each in methods.names():
        table.add_row(each, _settings(each), methods.summary(each).partition(": ")[2] or methods.summary(each))
    console.print(table)
    return 0


def _settings(name: str) -> str:
    return ", ".join(one.name if one.is_needed else f"{one.name}={one.default}" for one in methods.settings(name))
