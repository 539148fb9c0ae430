"""The decoding suite's rows as markdown tables, as they stand in the README and in docs/benchmarks.md.

    python -m bench.decode_table out/device/decode.json

One table a case, in the order they were measured; a column that no row has a figure for is left out, and so are cases
that only show that everything runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.decode_cases import SMOKE
from bench.roofline import label, read

Row = dict[str, Any]
NAMES = {
    "ours": "genarm",
    "hf": "transformers `generate`",
    "hf+processor": "transformers `generate` + guidance processor",
    "hf-static": "transformers `generate`, static cache, compiled",
    "hf-static+processor": "the same + guidance processor, compiled",
    "loop": "loop of one forward pass a model, DynamicCache",
    "loop-compiled": "loop of one forward pass a model, static caches, compiled",
}


def load(path: Path) -> Row:
    """The decoding suite's record, or SystemExit with what is wrong with it."""
    record = read(path)
    if not all("contender" in row["notes"] for row in record["rows"]):
        raise SystemExit(f"{path} has rows of another suite: this reads the decoding suite only")
    return record


def cases(record: Row) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by case: those that were measured in turn with each other."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in record["rows"]:
        notes = row["notes"]
        case = tuple(notes[key] for key in ("model", "rewards", "B", "context", "part"))
        if notes["part"] != SMOKE:
            found.setdefault(case, []).append(row)
    return found


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _ratio(notes: Row, name: str) -> str:
    """A median with its quartiles."""
    if notes.get(name) is None:
        return ""
    return f"{notes[name]:.2f} ({notes[f'{name}_low']:.2f}–{notes[f'{name}_high']:.2f})"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "decoding": lambda row: NAMES[row["notes"]["contender"]],
    "K": lambda row: str(row["notes"]["K"]),
    "ms a token": lambda row: f"{row['median_us'] / 1e3:.2f}",
    "tokens/s": lambda row: f"{row['notes']['tokens/s']:,.1f}",
    "GB/s": lambda row: f"{row['notes']['GB/s']:,.3g}",
    "of copy": lambda row: f"{row['notes']['share_of_copy']:.0%}",
    "over plain": lambda row: _ratio(row["notes"], "ratio"),
    "over genarm": lambda row: _ratio(row["notes"], "over_ours"),
    "host gap": lambda row: _figure(row["notes"]["host_gap"], ".0%"),
    "first token, ms": lambda row: f"{row['notes']['first_ms']:.0f}",
}


def title(case: tuple[Any, ...], rows: list[Row]) -> str:
    model, rewards, batch, context, _ = case
    notes = rows[0]["notes"]
    kinds = {"lora": "LoRA reward models on the base", "separate": "reward models with weights of their own"}
    shape = f"**{model}**, {kinds[rewards]}, batch {batch}, context {context:,}, {notes['dtype']}"
    return f"{shape}; {rows[0]['rounds']} rounds of {notes['steps']} steps"


def table(case: tuple[Any, ...], rows: list[Row]) -> str:
    cells = {name: [cell(row) for row in rows] for name, cell in COLUMNS.items()}
    cells = {name: column for name, column in cells.items() if any(column)}
    lines = ["| " + " | ".join(cells) + " |", "|" + "---|" * len(cells)]
    lines += ["| " + " | ".join(line) + " |" for line in zip(*cells.values(), strict=True)]
    return "\n".join([title(case, rows), "", *lines])


def tables(record: Row) -> str:
    return "\n\n".join([label(record), *(table(case, rows) for case, rows in cases(record).items())]) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.stdout.write(tables(load(Path(sys.argv[1]))))
