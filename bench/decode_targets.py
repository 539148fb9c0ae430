"""The decoding suite's rows in a few lines: each target with what was measured, then the peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.verdict import line

Row = dict[str, Any]
Shape = tuple[str, str, int, int, str]  # model, rewards, B, context, part
LARGE, SMALL = "Llama-3.1-8B", ("small", "lora", 1, 256, "")
PEERS: Shape = (LARGE, "lora", 1, 1024, "peers")
COMPILED: Shape = ("Qwen3-0.6B", "lora", 1, 1024, "compiled")


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on one figure of one row."""

    name: str
    shape: Shape
    contender: str
    K: int
    figure: Callable[[Row], float | None]
    bound: float
    most: bool = True


def note(name: str) -> Callable[[Row], float | None]:
    return lambda row: row["notes"][name]


def ratio(shape: Shape, K: int, bound: float) -> Target:
    model, rewards, _, context, _ = shape
    return Target(f"guided / plain, {model} {rewards}, T={context} K={K}", shape, "ours", K, note("ratio"), bound)


def faster(shape: Shape, peer: str, K: int, bound: float) -> Target:
    return Target(f"{peer} / ours, {shape[0]} K={K}", shape, peer, K, note("over_ours"), bound, most=False)


def host_gap(shape: Shape, K: int) -> Target:
    return Target(f"host gap, {shape[0]} T={shape[3]} K={K}", shape, "ours", K, note("host_gap"), 0.05)


ON_CPU = [
    ratio(SMALL, 1, 1.20),
    ratio(SMALL, 3, 1.35),
    faster(SMALL, "loop", 2, 2.0),
    faster(SMALL, "hf", 0, 1.0),
]
ON_GPU = [
    ratio((LARGE, "lora", 1, 1024, ""), 1, 1.05),
    ratio((LARGE, "lora", 1, 1024, ""), 3, 1.08),
    ratio((LARGE, "lora", 1, 3072, ""), 1, 1.07),
    ratio((LARGE, "lora", 1, 3072, ""), 3, 1.15),
    # The base and a reward model of its size, each alone, are twice plain decoding; 1.03 of that.
    ratio((LARGE, "separate", 1, 128, ""), 1, 2.06),
    Target(
        f"seconds of 128 tokens, {LARGE} + {LARGE}",
        (LARGE, "separate", 1, 128, ""),
        "ours",
        1,
        lambda row: row["median_us"] * 128 / 1e6,
        1.0,
    ),
    Target(
        f"share of copy bandwidth, plain {LARGE} T=1024",
        (LARGE, "lora", 1, 1024, ""),
        "ours",
        0,
        note("share_of_copy"),
        0.8,
        most=False,
    ),
    host_gap((LARGE, "lora", 1, 1024, ""), 1),
    faster(PEERS, "hf+processor", 1, 10.0),
    faster(COMPILED, "hf-static+processor", 1, 3.0),
]


def is_decode(record: Row) -> bool:
    return any("contender" in row["notes"] for row in record["rows"])


def digest(record: Row) -> list[str]:
    rows = {place(row): row for row in record["rows"]}
    on_cpu = record["device"].startswith("CPU")
    head = "targets (set for two CPU cores):" if on_cpu else "targets (set for an NVIDIA H200):"
    lines = [f"  {len(rows)} rows", f"  {head}"]
    lines += [judged(target, rows) for target in (ON_CPU if on_cpu else ON_GPU)]
    return [*lines, *against(rows)]


def place(row: Row) -> tuple[Any, ...]:
    return tuple(row["notes"][key] for key in ("model", "rewards", "B", "context", "part", "contender", "K"))


def judged(target: Target, rows: dict[tuple[Any, ...], Row]) -> str:
    row = rows.get((*target.shape, target.contender, target.K))
    return line(target.name, target.figure(row) if row else None, target.bound, target.most)


def against(rows: dict[tuple[Any, ...], Row]) -> list[str]:
    """Each peer's step over ours with as many reward models, shape by shape."""
    lines = []
    for (model, rewards, batch, context, _, contender, K), row in rows.items():
        over = row["notes"]["over_ours"]
        if over is not None:
            where = f"{model} {rewards} B={batch} T={context} K={K}"
            lines.append(f"  against {contender:<20} {over:.2f}x at {where}")
    return lines
