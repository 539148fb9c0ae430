"""A suite's rows in a few lines: each target with what was measured, then how the library compares with its peers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
Key = tuple[str, str, int, int, int]  # implementation, filters, B, M, V
Shape = tuple[str, str, int, int, str]  # model, rewards, B, context, part

OURS = "ours"
WIDE = (64, 4, 128256)
NARROW = (1, 2, 128256)
FASTER_THAN = {"eager": 10.0, "compiled": 3.0, "flashinfer": 1.5}
PEERS = ("eager", "compiled", "hf", "flashinfer")
# Resident memory comes in pages of a process that also imports and caches; allocated tensors do not.
GROWTH = {"CPU": 200.0, "GPU": 1.0}  # bytes per step
NONE_JUDGED = "  targets: none judged, they are for a GPU and this was a CPU"


def digest(record: Row) -> list[str] | None:
    """The suite in short; None if it has no targets, or no rows to judge by."""
    told = DIGESTS.get(record["suite"])
    return told(record) if told and record["rows"] else None


def line(name: str, value: float | None, target: float, most: bool = False) -> str:
    """One target, a lower bound or the most there may be, and what was measured."""
    bound = f"{'≤' if most else '≥'} {target:g}"
    if value is None:
        return f"  {name:<50} {'-':>8}  target {bound:<7} NOT MEASURED"
    met = value <= target if most else value >= target
    return f"  {name:<50} {value:>8.3g}  target {bound:<7} {'met' if met else 'NOT MET'}"


def on_cpu(record: Row) -> bool:
    return bool(record["device"].startswith("CPU"))


def sampling(record: Row) -> list[str]:
    rows = {_key(row): row for row in record["rows"]}
    ratios = {peer: compare(rows, peer) for peer in PEERS}
    lines = [f"  {len(rows)} rows", *_compared(rows, ratios)]
    if on_cpu(record):
        return [*lines, NONE_JUDGED]
    return [*lines, "  targets (set for an NVIDIA H200):", *_judged(rows, ratios)]


def _key(row: Row) -> Key:
    notes = row["notes"]
    return notes["implementation"], notes["filters"], notes["B"], notes["M"], notes["V"]


def compare(rows: dict[Key, Row], peer: str) -> dict[Key, float]:
    """The peer's time over ours, for every shape and filter that both have."""
    return {
        there: row["median_us"] / rows[OURS, *there[1:]]["median_us"]
        for there, row in rows.items()
        if there[0] == peer and (OURS, *there[1:]) in rows
    }


def _compared(rows: dict[Key, Row], ratios: dict[str, dict[Key, float]]) -> list[str]:
    lines = []
    for peer, found in ratios.items():
        if not found:
            lines.append(f"  against {peer:<11} NOT MEASURED")
            continue
        mean = math.exp(sum(map(math.log, found.values())) / len(found))
        worst = min(found, key=found.__getitem__)
        modes = "/".join(sorted({rows[there]["notes"]["mode"] for there in found}))
        _, filters, B, M, V = worst
        lines.append(
            f"  against {peer:<11} geometric mean {mean:.2f}x,"
            f" minimum {found[worst]:.2f}x at B={B} M={M} V={V} {filters};"
            f" {len(found)} cases, timed in mode {modes}"
        )
    return lines


def _judged(rows: dict[Key, Row], ratios: dict[str, dict[Key, float]]) -> list[str]:
    wide, narrow = rows.get((OURS, "none", *WIDE)), rows.get((OURS, "none", *NARROW))
    both = rows.get((OURS, "top_k+top_p", *WIDE))
    in_graph = narrow["median_us"] if narrow and narrow["notes"]["mode"] == "graph" else None
    over = both["median_us"] / wide["median_us"] if both and wide else None
    return [
        line("share of copy bandwidth, B=64 M=4 V=128256", wide and wide["notes"]["share_of_copy"], 0.85),
        line("µs, B=1 M=2 V=128256 in a graph", in_graph, 8.0, most=True),
        line("top-k + top-p over unfiltered, B=64 M=4 V=128256", over, 2.5, most=True),
        *(
            line(f"times faster than {peer}, every case", min(ratios[peer].values(), default=None), target)
            for peer, target in FASTER_THAN.items()
        ),
    ]


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on one figure of one row of the decoding suite."""

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
    return Target(f"guided / plain, {model} {rewards}, T={context} K={K}", shape, OURS, K, note("ratio"), bound)


def particles(model: str, context: int) -> list[Target]:
    """Eight particles of one prompt: no more per step than a plain guided batch of eight, and one prompt is read."""
    shape = (model, "lora", 8, context, "particles")
    over, read = f"8 particles / batch of 8, {model}", f"prompts read for 8 particles, {model}"
    return [
        target
        for K in (1, 3)
        for target in (
            Target(f"{over} K={K}", shape, "particles", K, note("over_ours"), 1.10),
            Target(f"{read} K={K}", shape, "particles", K, note("prompts_read"), 1),
        )
    ]


def activated(context: int, bound: float) -> list[Target]:
    """Reward models that sleep on the prompt: a step, and the first token, beside plain decoding's."""
    shape = (LARGE, "lora", 1, context, "activated")
    of = f"{LARGE} activated, T={context} K=3"
    return [
        Target(f"guided / plain, {of}", shape, "activated", 3, note("ratio"), bound),
        Target(f"first token / plain, {of}", shape, "activated", 3, note("first_ratio"), 1.10),
    ]


def faster(shape: Shape, peer: str, K: int, bound: float) -> Target:
    return Target(f"{peer} / ours, {shape[0]} K={K}", shape, peer, K, note("over_ours"), bound, most=False)


SMALL: Shape = ("small", "lora", 1, 256, "")
LARGE = "Llama-3.1-8B"
USUAL: Shape = (LARGE, "lora", 1, 1024, "")
LONG: Shape = (LARGE, "lora", 1, 3072, "")
SEPARATE: Shape = (LARGE, "separate", 1, 128, "")
DECODE_ON_CPU = [
    ratio(SMALL, 1, 1.20),
    ratio(SMALL, 3, 1.35),
    faster(SMALL, "loop", 2, 2.0),
    faster(SMALL, "hf", 0, 1.0),
    *particles("small", 64),
]
DECODE_ON_GPU = [
    ratio(USUAL, 1, 1.05),
    ratio(USUAL, 3, 1.08),
    ratio(LONG, 1, 1.07),
    ratio(LONG, 3, 1.15),
    # The base and a reward model of its size, each alone, are twice plain decoding; 1.03 of that.
    ratio(SEPARATE, 1, 2.06),
    *activated(3072, 1.08),
    *activated(16384, 1.10),
    *particles(LARGE, 1024),
    Target(f"seconds of 128 tokens, {LARGE} + {LARGE}", SEPARATE, OURS, 1, lambda row: row["median_us"] * 128 / 1e6, 1),
    Target(f"share of copy bandwidth, plain {LARGE} T=1024", USUAL, OURS, 0, note("share_of_copy"), 0.8, most=False),
    Target(f"host gap, {LARGE} T=1024 K=1", USUAL, OURS, 1, note("host_gap"), 0.05),
    faster((*USUAL[:4], "peers"), "hf+processor", 1, 10.0),
    faster(("Qwen3-0.6B", "lora", 1, 1024, "compiled"), "hf-static+processor", 1, 3.0),
]


def decode(record: Row) -> list[str]:
    """Each target, then each peer's step over ours with as many reward models, shape by shape."""
    place = ("model", "rewards", "B", "context", "part", "contender", "K")
    rows = {tuple(row["notes"][key] for key in place): row for row in record["rows"]}
    machine, targets = ("two CPU cores", DECODE_ON_CPU) if on_cpu(record) else ("an NVIDIA H200", DECODE_ON_GPU)
    lines = [f"  {len(rows)} rows", f"  targets (set for {machine}):"]
    for target in targets:
        row = rows.get((*target.shape, target.contender, target.K))
        lines.append(line(target.name, target.figure(row) if row else None, target.bound, target.most))
    for (model, rewards, batch, context, _, contender, K), row in rows.items():
        over = row["notes"]["over_ours"]
        if over is not None:
            lines.append(f"  against {contender:<20} {over:.2f}x at {model} {rewards} B={batch} T={context} K={K}")
    return lines


def launches(record: Row) -> list[str]:
    """Launches per step, counted on the device beside what the engine's own code says; nothing from a CPU."""
    found: dict[str, Row] = {}
    for row in record["rows"]:
        notes = row["notes"]
        if notes.get("launches") is not None:
            name = f"{notes['model']} {notes['rewards']} B={notes['B']} K={notes['K']} {notes['contender']}"
            found.setdefault(name, notes)
    lines = []
    for name, notes in found.items():
        expected = "-" if notes["launches_expected"] is None else notes["launches_expected"]
        lines.append(f"  {name:<50} {notes['launches']:>8g}  expected {expected:<6} by {notes['launches_by']}")
    return ["launches per step:", *lines] if lines else []


def logprobs(record: Row) -> list[str]:
    """With a frozen head: a peer's time over ours, its peak over ours, at the shape where ours is worst."""
    lines = [f"  {len(record['rows'])} rows"]
    if on_cpu(record):
        return [*lines, NONE_JUDGED]
    by_way: dict[str, dict[Key, Row]] = {}
    for row in record["rows"]:
        shape = tuple(row["notes"][name] for name in ("mode", "N", "H", "V", "dtype"))
        by_way.setdefault(row["notes"]["way"], {})[shape] = row["notes"]
    for peer in ("liger", "liger-sum"):
        theirs = by_way.get(peer, {})
        pairs = [
            (notes[f"over_{peer}"], notes["peak_MB"], theirs[shape]["peak_MB"])
            for shape, notes in by_way.get(OURS, {}).items()
            if notes["mode"] == "frozen" and shape in theirs
        ]
        times = min((1 / over for over, _, _ in pairs), default=None)
        peaks = min((their / own for _, own, their in pairs), default=None)
        lines.append(line(f"{peer}'s time over ours, frozen head, worst shape", times, 1.0))
        lines.append(line(f"{peer}'s peak over ours, frozen head, worst shape", peaks, 1.0))
    return lines


def soak(record: Row) -> list[str]:
    lines = []
    for row in record["rows"]:
        notes = row["notes"]
        lines += [
            f"  {notes['soaked_steps']} steps, {notes['memory_MB']:.1f} MB at the end, {notes['captures']} captures",
            line("growth, bytes per step", notes["growth"], GROWTH["CPU" if on_cpu(record) else "GPU"], most=True),
            line("steps captured again", notes["recaptures"], 0, most=True),
        ]
    return lines


def speculation(record: Row) -> list[str]:
    """On the models that quote: steps, time, and texts that do not go in circles."""
    lines = [f"  {len(record['rows'])} rows"]
    if not on_cpu(record):
        return [*lines, "  targets: none judged, they are for a CPU"]
    rows = {
        (row["notes"]["T"], row["notes"]["contender"]): row["notes"]
        for row in record["rows"]
        if (row["notes"]["model"], row["notes"]["prompts"], row["notes"]["B"]) == ("copy", "quoting", 1)
    }
    for T in (0.7, 0.0):
        guided, weak = rows.get((T, "guided+ngram-4"), {}), rows.get((T, "weak-to-strong+reward-4"), {})
        lines += [
            line(f"steps per token, guided + ngram, T={T:g}", guided.get("steps"), 0.6, most=True),
            line(f"time over plain, guided + ngram, T={T:g}", guided.get("ratio"), 1.0, most=True),
            line(f"distinct 4-grams, guided + ngram, T={T:g}", guided.get("distinct"), 0.9),
            line(f"time over no drafts, weak + reward, T={T:g}", weak.get("over_undrafted"), 0.9, most=True),
        ]
    return lines


DIGESTS: dict[str, Callable[[Row], list[str]]] = {
    "sampling": sampling,
    "decode": decode,
    "logprobs": logprobs,
    "soak": soak,
    "speculation": speculation,
}
