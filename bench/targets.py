"""A suite's rows in a few lines: each target with what was measured, then how the library compares with each peer."""

from __future__ import annotations

import math
from typing import Any

from bench import decode_targets, other_targets
from bench.verdict import line

Row = dict[str, Any]
Key = tuple[str, str, int, int, int]  # implementation, filters, B, M, V

OURS = "ours"
WIDE = (64, 4, 128256)
NARROW = (1, 2, 128256)
FASTER_THAN = {"eager": 10.0, "compiled": 3.0, "flashinfer": 1.5}
PEERS = ("eager", "compiled", "hf", "flashinfer")
BOTH = "top_k+top_p"


# which suite's rows they are, and how these are told in short
OTHERS = (
    (decode_targets.is_decode, decode_targets.digest),
    (other_targets.is_logprobs, other_targets.logprobs_digest),
    (other_targets.is_soak, other_targets.soak_digest),
)


def has_digest(record: Row) -> bool:
    """Whether the rows are of a suite that has targets."""
    known = any(is_of(record) for is_of, _ in OTHERS)
    return known or any("implementation" in row["notes"] for row in record["rows"])


def digest(record: Row) -> list[str]:
    for is_of, told in OTHERS:
        if is_of(record):
            return told(record)
    rows = {key(row): row for row in record["rows"]}
    ratios = {peer: compare(rows, peer) for peer in PEERS}
    lines = [f"  {len(rows)} rows", *compared(rows, ratios)]
    if record["device"].startswith("CPU"):
        return [*lines, "  targets: none judged, they are for a GPU and this was a CPU"]
    return [*lines, "  targets (set for an NVIDIA H200):", *judged(rows, ratios)]


def key(row: Row) -> Key:
    notes = row["notes"]
    return notes["implementation"], notes["filters"], notes["B"], notes["M"], notes["V"]


def compare(rows: dict[Key, Row], peer: str) -> dict[Key, float]:
    """The peer's time over ours, for every shape and filter that both have."""
    return {
        there: row["median_us"] / rows[OURS, *there[1:]]["median_us"]
        for there, row in rows.items()
        if there[0] == peer and (OURS, *there[1:]) in rows
    }


def compared(rows: dict[Key, Row], ratios: dict[str, dict[Key, float]]) -> list[str]:
    lines = []
    for peer, found in ratios.items():
        if not found:
            lines.append(f"  against {peer:<11} NOT MEASURED")
            continue
        mean = math.exp(sum(map(math.log, found.values())) / len(found))
        worst = min(found, key=found.__getitem__)
        modes = "/".join(sorted({rows[there]["notes"]["mode"] for there in found}))
        lines.append(
            f"  against {peer:<11} geometric mean {mean:.2f}x, minimum {found[worst]:.2f}x at {where(worst)};"
            f" {len(found)} cases, timed in mode {modes}"
        )
    return lines


def judged(rows: dict[Key, Row], ratios: dict[str, dict[Key, float]]) -> list[str]:
    wide, narrow = rows.get((OURS, "none", *WIDE)), rows.get((OURS, "none", *NARROW))
    filtered = rows.get((OURS, BOTH, *WIDE))
    lines = [
        line("share of copy bandwidth, B=64 M=4 V=128256", wide and wide["notes"]["share_of_copy"], 0.85),
        line("µs, B=1 M=2 V=128256 in a graph", _in_graph(narrow), 8.0, most=True),
        line(
            "top-k + top-p over unfiltered, B=64 M=4 V=128256",
            filtered and wide and filtered["median_us"] / wide["median_us"],
            2.5,
            most=True,
        ),
    ]
    lines += [
        line(f"times faster than {peer}, every case", min(ratios[peer].values(), default=None), target)
        for peer, target in FASTER_THAN.items()
    ]
    return lines


def where(place: Key) -> str:
    _, filters, B, M, V = place
    return f"B={B} M={M} V={V} {filters}"


def _in_graph(row: Row | None) -> float | None:
    return row["median_us"] if row and row["notes"]["mode"] == "graph" else None
