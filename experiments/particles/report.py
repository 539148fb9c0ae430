"""The figures as tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Figures = dict[str, Any]
Found = dict[str, float]


def tables(figures: Figures) -> str:
    """All of them, each under its title."""
    parts = {
        "judge": _judge(figures),
        "difference": _checks(figures),
        "gap": _gaps(figures),
        **{f"frontier, {filters(p)}": _frontier(figures, p) for p in _filters(figures)},
        "equal share": _matched(figures),
        "length": _lengths(figures),
        "level bonus": _level(figures),
    }
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in parts.items())


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(found: Found | None, digits: int = 0) -> str:
    """`62 [55, 70]` percent; a dash where nothing is defined."""
    return "–" if found is None else number({name: 100 * value for name, value in found.items()}, digits)


def number(found: Found, digits: int = 2) -> str:
    value, low, high = (f"{found[name] + 0.0:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def filters(base_min_p: float) -> str:
    return f"base-min-p {base_min_p:g}" if base_min_p else "no filter"


Cells = tuple[tuple[str, Callable[[Any], str]], ...]
ANSWER: Cells = (
    ("on topic, %", lambda row: percent(row["about"])),
    ("base nats per token", lambda row: number(row["base_nats"])),
    ("distinct texts, %", lambda row: percent(row["distinct_texts"])),
    ("distinct bigrams, %", lambda row: percent(row["distinct_bigrams"])),
)
COLUMNS: Cells = (
    *ANSWER,
    ("tokens", lambda row: number(row["tokens"], 1)),
    ("gap closed, nats", lambda row: number(row["gap_closed"], 1) if "gap_closed" in row else "–"),
    ("CPU s per answer", lambda row: f"{row['seconds']:.2f}"),
)


def _filters(figures: Figures) -> list[float]:
    return list(dict.fromkeys(row["base_min_p"] for row in figures["points"]))


def _frontier(figures: Figures, base_min_p: float) -> str:
    rows = [row for row in figures["points"] if row["base_min_p"] == base_min_p]
    rows.sort(key=lambda row: (row["weight"], row["particles"]))
    named = [(f"{row['weight']:g}" if row["weight"] else "base alone", f"N = {row['particles']}", row) for row in rows]
    for row in figures["best_of"]:
        if row["base_min_p"] == base_min_p:
            weight = f"{row['weight']:g}" if row["weight"] else "base alone"
            named.append((weight, f"best of {row['best_of']}", row))
    body = [[weight, way, *(show(row) for _, show in COLUMNS)] for weight, way, row in named]
    return _table(["weight", "way", *(head for head, _ in COLUMNS)], body)


def _judge(figures: Figures) -> str:
    rows = [
        [
            name,
            f"{row['statements']:,}",
            str(row["about"]),
            percent(row["recall"]),
            percent(row["precision"]),
            percent(row["said of others"], 1),
            percent(row["said of those against it"]),
        ]
        for name, row in figures["judge"].items()
    ]
    quality = ["recall, %", "precision, %", "said of others, %", "of those against art, %"]
    return _table(["held-out statements", "number", "about art", *quality], rows)


def _checks(figures: Figures) -> str:
    found = figures["checks"]
    heads = [f"no filter, weight {found['weight']:g}", f"N = {found['particles']} less plain decoding"]
    rows = [["on topic, points", percent(found["about"])], ["base nats per token", number(found["base_nats"])]]
    return _table(heads, rows)


def _gaps(figures: Figures) -> str:
    heads = ["weight", "N", "left by plain decoding, nats", "left, nats", "left of plain's, %", "prompt by prompt"]
    rows = [
        [
            f"{row['weight']:g}",
            str(row["particles"]),
            number(row["plain"], 1),
            number(row["left"], 1),
            percent(row["share"]),
            ", ".join(f"{plain:.1f} → {own:.1f}" for plain, own in row["by_prompt"]),
        ]
        for row in figures["gaps"]
    ]
    return _table(heads, rows)


def _matched(figures: Figures) -> str:
    rows = []
    for row in figures["matched"]:
        plain, start = row["plain"], [filters(row["base_min_p"]), f"{row['weight']:g}", str(row["particles"])]
        start += [f"{row['length_bonus']:g}", percent(row["about"])]
        tokens, distinct = f"{row['tokens']['value']:.1f}", percent(row["distinct_texts"]).split(" ")[0]
        if plain is None:
            rows.append([*start, "not reached", "–", tokens, "–", distinct, "–"])
        else:
            there = f"{plain['tokens']:.1f}", f"{100 * plain['distinct_texts']:.0f}"
            middle = f"{plain['weight']:.2f}", number(plain["nats_less"])
            rows.append([*start, *middle, tokens, there[0], distinct, there[1]])
    own = ["filter", "weight", "N", "bonus", "on topic, %", "plain's weight", "base nats per token, less plain's"]
    return _table([*own, "tokens", "plain's", "distinct texts, %", "plain's"], rows)


def _lengths(figures: Figures) -> str:
    rows = []
    every = [*figures["no_bonus"], *figures["lengths"]]
    for row in sorted(every, key=lambda row: (row["weight"], row["particles"], row["length_bonus"])):
        way = str(row["particles"]) if row["particles"] > 1 else "plain"
        bonus = f"{row['length_bonus']:g}" if row["particles"] > 1 else "–"
        shown = (show(row) for _, show in ANSWER)
        rows.append([f"{row['weight']:g}", way, bonus, number(row["tokens"], 1), f"{100 * row['ended']:.0f}", *shown])
    return _table(["weight", "N", "bonus, nats", "tokens", "ended, %", *(head for head, _ in ANSWER)], rows)


def _level(figures: Figures) -> str:
    rows = [
        [
            f"{row['weight']:g}",
            str(row["particles"]),
            f"{row['plain_tokens']:.1f}",
            "–" if row["bonus"] is None else f"{row['bonus']:g}",
        ]
        for row in figures["level_bonus"]
    ]
    return _table(["weight", "N", "tokens of plain decoding", "bonus for as many, nats"], rows)
