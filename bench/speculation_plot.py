"""One picture of the speculation suite: time over plain decoding, and steps per token, of every way to decode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from bench.tables import label

Row = dict[str, Any]
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "font.size": 10}
COLOURS = {"plain": "#000000", "guided": "#0072B2", "weak-to-strong": "#D55E00"}


def draw(record: Row, path: Path) -> None:
    """A line per row of the suite, in a group per case; what has drafts is filled."""
    groups: dict[str, list[Row]] = {}
    for row in record["rows"]:
        notes = row["notes"]
        name = f"{notes['model']}, {notes['prompts']}, T = {notes['T']:g}, batch {notes['B']}"
        groups.setdefault(name, []).append(row)
    lines = len(record["rows"]) + len(groups)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 1.4 + 0.27 * lines))
        times, steps = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        names: dict[int, str] = {}
        place = 0
        for title, rows in groups.items():
            times.text(0.0, place, title, fontweight="bold", va="center", transform=times.get_yaxis_transform())
            for at, row in enumerate(rows, place + 1):
                names[at] = row["notes"]["contender"]
                _line(times, steps, row, at)
            place += len(rows) + 1
        _axes(times, steps, names, place)
        figure.suptitle("speculation: time and steps", x=0.01, ha="left", fontweight="bold")
        figure.text(0.01, 0.008, label(record), fontsize=8, color="#555555")
        figure.tight_layout(rect=(0, 0.025, 1, 0.99))
        figure.savefig(path, dpi=150)


def _line(times: Any, steps: Any, row: Row, at: int) -> None:
    notes = row["notes"]
    colour = COLOURS[notes["contender"].partition("+")[0]]
    look = {"marker": "o", "markersize": 6, "color": colour, "mfc": colour if "+" in notes["contender"] else "white"}
    spread = [[notes["ratio"] - notes["ratio_low"]], [notes["ratio_high"] - notes["ratio"]]]
    times.errorbar([notes["ratio"]], [at], xerr=spread, capsize=3, **look)
    steps.plot([notes["steps"]], [at], **look)
    words = f"{notes['distinct']:.0%} distinct"
    if notes["acceptance"] is not None:
        words = f"{notes['acceptance']:.0%} accepted, {words}"
    steps.annotate(words, (1.12, at), fontsize=8, color="#555555", va="center", annotation_clip=False)


def _axes(times: Any, steps: Any, names: dict[int, str], lines: int) -> None:
    times.set_yticks(list(names), list(names.values()))
    times.set_ylim(lines - 0.4, -0.6)
    times.set_xlim(left=0)
    times.axvline(1, color="#888888", linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    times.set_xlabel("time per token over plain: median, quartiles")
    steps.set_xlim(0, 1.1)
    steps.set_xlabel("steps per token")
    for panel in (times, steps):
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="x", color="#DDDDDD", linewidth=0.6)
        panel.set_axisbelow(True)
