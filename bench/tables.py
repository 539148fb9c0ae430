"""A suite's rows as markdown tables, as they stand in the README and in docs/benchmarks.md.

    python -m bench.tables out/device/decode.json      # or sampling, logprobs, speculation
    python -m bench.tables floors                      # what guidance must cost, from the bytes alone
    python -m bench.tables floors docs/activated.md    # the part on prompts that are held once, into the page
    python -m bench.tables out/device/speculation.json docs/speculation.md     # into the page, between its markers

A column that no row has a figure for is left out, and so are cases that only show that everything runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.page import write

Row = dict[str, Any]
Columns = dict[str, Callable[[Row], str]]
FILTERS = {
    "none": "no filter",
    "top_k": "top-k 50",
    "top_p": "top-p 0.9",
    "top_k+top_p": "top-k 50 + top-p 0.9",
    "min_p": "min-p 0.05",
}
IMPLEMENTATIONS = ("ours", "ours+logprobs", "ours+normalizers", "eager", "compiled", "hf", "flashinfer")
CONTENDERS = {
    "ours": "genarm",
    "activated": "genarm, reward models asleep on the prompt",
    "answers": "genarm, a batch of answers to one prompt",
    "particles": "genarm, particles of one prompt",
    "particles-each": "the same, resampled after every token",
    "hf": "transformers `generate`",
    "hf+processor": "transformers `generate` + guidance processor",
    "hf-static": "transformers `generate`, static cache, compiled",
    "hf-static+processor": "the same + guidance processor, compiled",
    "loop": "loop of one forward pass a model, DynamicCache",
    "loop-compiled": "loop of one forward pass a model, static caches, compiled",
}
KINDS = {"lora": "LoRA reward models on the base", "separate": "reward models with weights of their own"}
WAYS = {
    "ours": "genarm",
    "plain": "all logits",
    "compiled": "all logits, compiled",
    "liger": "Liger, a grad a token",
    "liger-sum": "Liger, a sum",
}


def read(path: Path, *suites: str) -> Row:
    """The record of one of these suites, with rows, or SystemExit with what is wrong with it."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} cannot be read as a suite's JSON: {error}") from None
    if not isinstance(record, dict) or not record.get("rows"):
        raise SystemExit(f"{path} has no rows: write it with bench/device.sh")
    if record.get("suite") not in suites:
        raise SystemExit(f"{path} has rows of another suite: this reads {', '.join(suites)} only")
    return record


def label(record: Row) -> str:
    """Where the figures come from: device, versions, commit."""
    names = ("torch", "triton", "transformers", "flashinfer-python")
    versions = record.get("versions", {})
    used = ", ".join(f"{name} {versions[name]}" for name in names if versions.get(name))
    return f"{record['device']}  ·  {used}  ·  commit {record['commit'] or 'unknown'}"


def markdown(head: Sequence[str], lines: Iterable[Iterable[str]]) -> str:
    first, *others = ("| " + " | ".join(cells) + " |" for cells in [head, *lines])
    return "\n".join([first, "|" + "---|" * len(head), *others])


def filled(columns: Columns, rows: list[Row]) -> str:
    """A table of the columns that have a figure in some row."""
    cells = {name: [cell(row) for row in rows] for name, cell in columns.items()}
    cells = {name: column for name, column in cells.items() if any(column)}
    return markdown(list(cells), zip(*cells.values(), strict=True))


def sampling(record: Row) -> str:
    """A line for each shape and filter, a column for each implementation, and the library's share of copy bandwidth."""
    rows = record["rows"]
    present = [name for name in IMPLEMENTATIONS if any(row["notes"]["implementation"] == name for row in rows)]
    cases: dict[tuple[str, int, int, int], dict[str, Row]] = {}
    for row in rows:
        notes = row["notes"]
        cases.setdefault((notes["filters"], notes["B"], notes["M"], notes["V"]), {})[notes["implementation"]] = row
    lines = []
    for case in sorted(cases, key=lambda case: (list(FILTERS).index(case[0]), *case[1:])):
        found = cases[case]
        ours = found["ours"]["notes"] if "ours" in found else None
        share = [f"{ours['GB/s']:.3g}", f"{ours['share_of_copy']:.0%}"] if ours else ["", ""]
        lines.append([FILTERS[case[0]], *map(str, case[1:]), *(_median(found.get(name)) for name in present), *share])
    head = ["filters", "B", "M", "V", *(f"{name} µs" for name in present), "ours GB/s", "ours share of copy"]
    return markdown(head, lines) + "\n\n* called eagerly, not replayed from a CUDA graph"


def _median(row: Row | None) -> str:
    return f"{row['median_us']:.4g}{'' if row['notes']['mode'] == 'graph' else '*'}" if row else ""


def _spread(notes: Row, name: str) -> str:
    """A median with its quartiles."""
    if notes.get(name) is None:
        return ""
    return f"{notes[name]:.2f} ({notes[f'{name}_low']:.2f}–{notes[f'{name}_high']:.2f})"


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


DECODE: Columns = {
    "decoding": lambda row: CONTENDERS[row["notes"]["contender"]],
    "K": lambda row: str(row["notes"]["K"]),
    "ms a token": lambda row: f"{row['median_us'] / 1e3:.2f}",
    "tokens/s": lambda row: f"{row['notes']['tokens/s']:,.1f}",
    "GB/s": lambda row: f"{row['notes']['GB/s']:,.3g}",
    "of copy": lambda row: f"{row['notes']['share_of_copy']:.0%}",
    "over plain": lambda row: _spread(row["notes"], "ratio"),
    "over genarm": lambda row: _spread(row["notes"], "over_ours"),
    "host gap": lambda row: "" if row["notes"]["host_gap"] is None else f"{row['notes']['host_gap']:.0%}",
    "first token, ms": lambda row: f"{row['notes']['first_ms']:.0f}",
    "first over plain": lambda row: _figure(row["notes"].get("first_ratio"), ".2f"),
    "cache, MB": lambda row: _figure(row["notes"].get("cache_MB"), ",.1f"),
    "prompts read": lambda row: _figure(row["notes"].get("prompts_read"), "g"),
}


def decode(record: Row) -> str:
    """A table for each case, whose rows were measured in turn with each other."""
    cases: dict[tuple[Any, ...], list[Row]] = {}
    for row in record["rows"]:
        notes = row["notes"]
        if notes["model"] != "tiny":  # whose cases only show that everything runs
            case = tuple(notes[key] for key in ("model", "rewards", "B", "context", "part"))
            cases.setdefault(case, []).append(row)
    parts = []
    for (model, rewards, batch, context, _), rows in cases.items():
        notes = rows[0]["notes"]
        shape = f"**{model}**, {KINDS[rewards]}, batch {batch}, context {context:,}, {notes['dtype']}"
        parts += [f"{shape}; {rows[0]['rounds']} rounds of {notes['steps']} steps", filled(DECODE, rows)]
    return "\n\n".join(parts)


def _over(other: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row["notes"].get(f"over_{other}")
        return "" if value is None or row["notes"]["way"] == other else f"{value:.2f}"

    return cell


LOGPROBS: Columns = {
    "dtype": lambda row: row["notes"]["dtype"],
    "N": lambda row: f"{row['notes']['N']:,}",
    "H": lambda row: f"{row['notes']['H']:,}",
    "V": lambda row: f"{row['notes']['V']:,}",
    "mode": lambda row: row["notes"]["mode"],
    "way": lambda row: WAYS[row["notes"]["way"]],
    "ms": lambda row: f"{row['median_us'] / 1e3:.1f}",
    "peak, MB": lambda row: f"{row['notes']['peak_MB']:,.0f}",
    "over all logits": _over("plain"),
    "over Liger": _over("liger"),
    "over Liger's sum": _over("liger-sum"),
    "of the floor": lambda row: f"{row['notes']['share_of_floor']:.0%}",
}
SPECULATION: Columns = {
    "T": lambda row: f"{row['notes']['T']:g}",
    "decoding": lambda row: row["notes"]["contender"],
    "steps per token": lambda row: f"{row['notes']['steps']:.2f}",
    "accepted": lambda row: "" if row["notes"]["acceptance"] is None else f"{row['notes']['acceptance']:.0%}",
    "tokens per step": lambda row: "" if row["notes"]["length"] is None else f"{row['notes']['length']:.2f}",
    "ms per token": lambda row: f"{row['median_us'] / 1e3:.2f}",
    "time over plain": lambda row: _spread(row["notes"], "ratio"),
    "over the same without drafts": lambda row: _spread(row["notes"], "over_undrafted"),
    "distinct 4-grams, least": lambda row: f"{row['notes']['distinct']:.0%}, {row['notes']['distinct_least']:.0%}",
    "same texts": lambda row: "" if row["notes"]["acceptance"] is None else f"{row['notes']['same']:.0%}",
}


def speculation(record: Row) -> str:
    """A table for each model and kind of prompt, and in it every temperature."""
    cases: dict[tuple[Any, ...], list[Row]] = {}
    for row in record["rows"]:
        cases.setdefault(tuple(row["notes"][key] for key in ("model", "prompts", "B")), []).append(row)
    parts = []
    for (model, prompts, batch), rows in cases.items():
        notes = rows[0]["notes"]
        what = f"**{model}, {prompts}**, batch {batch}, {notes['dtype']}, threads: {notes['threads']}"
        length = f"{rows[0]['rounds']} rounds of {notes['tokens']} tokens"
        source = f"of the prompts' own 4-grams {notes['distinct_source']:.0%} are distinct"
        parts += [f"{what}; {length}; {source}", filled(SPECULATION, rows)]
    return "\n\n".join(parts)


TABLES: dict[str, Callable[[Row], str]] = {
    "sampling": sampling,
    "decode": decode,
    "logprobs": lambda record: filled(LOGPROBS, record["rows"]),
    "speculation": speculation,
}


def table(path: Path) -> str:
    """Where a suite's figures come from, and its tables."""
    record = read(path, *TABLES)
    return f"{label(record)}\n\n{TABLES[record['suite']](record)}\n"


def floors() -> str:
    """The bytes of a step with K reward models over those of a plain one."""
    from bench.floors import own_prompts

    return markdown(["model", "B", "context", "plain, GB", "K = 1", "K = 2", "K = 3"], own_prompts()) + "\n"


def held_once() -> str:
    """The same for answers to one prompt, of rows with copies and of rows that have it in common."""
    from bench.floors import held_once

    kinds = ("copies", "ordinary", "activated")
    head = ["answers", "prompt", "K", *(f"cache, GB: {kind}" for kind in kinds), *(f"step: {kind}" for kind in kinds)]
    return markdown(head, held_once()) + "\n"


def _main(source: str, page: str = "") -> None:
    made = {"floors": held_once()} if source == "floors" else {"measured": table(Path(source))}
    if page:
        write(Path(page), made)
    else:
        sys.stdout.write("\n".join([floors()] * (source == "floors") + list(made.values())))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    _main(*sys.argv[1:])
