"""Digests of the suites whose targets are few: token log-probabilities beside Liger, and the soak."""

from __future__ import annotations

from typing import Any

from bench.verdict import line

Row = dict[str, Any]
# Resident memory comes in pages of a process that also imports and caches; allocated tensors do not.
GROWTH = {"cpu": 200.0, "cuda": 1.0}  # bytes a step


def is_logprobs(record: Row) -> bool:
    return any("way" in row["notes"] and "peak_MB" in row["notes"] for row in record["rows"])


def is_soak(record: Row) -> bool:
    return any("soaked_steps" in row["notes"] for row in record["rows"])


def logprobs_digest(record: Row) -> list[str]:
    """With a frozen head: a peer's time over ours, its peak over ours, at the shape where ours is worst."""
    lines = [f"  {len(record['rows'])} rows"]
    if record["device"].startswith("CPU"):
        return [*lines, "  targets: none judged, they are for a GPU and this was a CPU"]
    for peer in ("liger", "liger-sum"):
        pairs = [
            (row["notes"][f"over_{peer}"], row["notes"]["peak_MB"], other["notes"]["peak_MB"])
            for row in record["rows"]
            if row["notes"]["way"] == "ours" and row["notes"]["mode"] == "frozen"
            for other in record["rows"]
            if other["notes"]["way"] == peer and _shape(other) == _shape(row)
        ]
        times = [1 / over for over, _, _ in pairs]
        peaks = [theirs / own for _, own, theirs in pairs]
        lines.append(line(f"{peer}'s time over ours, frozen head, worst shape", min(times, default=None), 1.0))
        lines.append(line(f"{peer}'s peak over ours, frozen head, worst shape", min(peaks, default=None), 1.0))
    return lines


def soak_digest(record: Row) -> list[str]:
    kind = "cpu" if record["device"].startswith("CPU") else "cuda"
    lines = []
    for row in record["rows"]:
        notes = row["notes"]
        lines += [
            f"  {notes['soaked_steps']} steps, {notes['memory_MB']:.1f} MB at the end, {notes['captures']} captures",
            line("growth, bytes a step", notes["growth"], GROWTH[kind], most=True),
            line("steps captured again", notes["recaptures"], 0, most=True),
        ]
    return lines


def _shape(row: Row) -> tuple[Any, ...]:
    return tuple(row["notes"][name] for name in ("mode", "N", "H", "V", "dtype"))
