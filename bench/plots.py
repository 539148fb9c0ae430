"""Pictures of a suite's rows: the sampler's times against bytes, and how a step's cost grows with batch and context.

    python -m bench.plots out/device/sampling.json out      # roofline.png
    python -m bench.plots out/device/decode.json out        # decode-batch.png, decode-context.png
    python -m bench.plots out/device/speculation.json out   # speculation.png

A roofline has one panel per filter, with the floor that copy bandwidth sets. A sweep has one column of panels per
model: the time of a step above and its ratio to plain decoding below, one line per number of reward models, the byte
floor dashed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bench import speculation_plot
from bench.tables import FILTERS, IMPLEMENTATIONS, label, read

Row = dict[str, Any]
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
# Okabe and Ito's palette: told apart by every kind of colour vision.
PALETTE = ("#D55E00", "#E69F00", "#56B4E9", "#0072B2", "#009E73", "#CC79A7", "#000000")
COLOURS = dict(zip(IMPLEMENTATIONS, PALETTE, strict=True))
MARKERS = dict(zip(IMPLEMENTATIONS, "oPXs^vD", strict=True))
K_COLOURS = ("#000000", "#0072B2", "#009E73", "#D55E00")
K_MARKERS = "os^D"
DASHES = (0, (4, 3))
MULTIPLES = (10, 100)
AXES = {"B": "sequences in the batch", "context": "tokens cached per sequence"}
FEWEST = 3  # points that make a sweep
KINDS = {"lora": "LoRA reward models", "separate": "separate reward models"}


def roofline(record: Row, path: Path) -> None:
    """One panel per filter, time against bytes; the legend takes a panel of its own."""
    rows = record["rows"]
    names = [name for name in FILTERS if any(row["notes"]["filters"] == name for row in rows)]
    columns = min(3, len(names) + 1)
    lines = -(-(len(names) + 1) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * columns, 3.7 * lines))
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        panels = list(grid.flat)
        for index, (panel, name) in enumerate(zip(panels, names, strict=False)):
            _floors(panel, rows)
            _points(panel, [row for row in rows if row["notes"]["filters"] == name])
            panel.set_title(FILTERS[name], loc="left", fontweight="bold")
            if index % columns == 0:
                panel.set_ylabel("median time of a call (µs)")
            if index + columns >= len(names):
                panel.set_xlabel("bytes of logits a call must read")
                panel.tick_params(labelbottom=True)
        for panel in panels[len(names) :]:
            panel.axis("off")
        panels[len(names)].legend(handles=_legend(rows), loc="center left", frameon=False)
        figure.suptitle(f"{record['suite']}: time against bytes", x=0.01, ha="left", fontsize=14, fontweight="bold")
        figure.text(0.01, 0.012, label(record), fontsize=8.5, color="#555555")
        figure.tight_layout(rect=(0, 0.03, 1, 0.98))
        figure.savefig(path, dpi=150)


def _floors(panel: Any, rows: list[Row]) -> None:
    """The time that a copy of as many bytes takes, and its multiples, over all sizes measured."""
    sizes = [row["notes"]["bytes"] for row in rows]
    ends = [min(sizes) / 1.6, max(sizes) * 1.6]
    per_byte = 1e6 / (rows[0]["notes"]["copy_GB/s"] * 1e9)  # µs
    for multiple in (1, *MULTIPLES):
        times = [size * per_byte * multiple for size in ends]
        look = {"linewidth": 0.8, "color": "#BBBBBB", "linestyle": DASHES}
        if multiple == 1:
            look = {"linewidth": 1.6, "color": "#444444"}
        panel.plot(ends, times, zorder=1, **look)
        text = f"{multiple}×" if multiple > 1 else "floor"
        place = {"xy": (ends[1], times[1]), "xytext": (2, 0), "textcoords": "offset points"}
        panel.annotate(text, **place, fontsize=7, color="#777777", va="center")


def _points(panel: Any, rows: list[Row]) -> None:
    for name, colour in COLOURS.items():
        for mode, face in (("graph", colour), ("eager", "none")):
            points = [row for row in rows if (row["notes"]["implementation"], row["notes"]["mode"]) == (name, mode)]
            panel.scatter(
                [row["notes"]["bytes"] for row in points],
                [row["median_us"] for row in points],
                s=26,
                marker=MARKERS[name],
                facecolors=face,
                edgecolors=colour,
                linewidths=1.1,
                alpha=0.85,
                zorder=3 if name.startswith("ours") else 2,
            )
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.grid(True, which="major", color="#EEEEEE", linewidth=0.8)
    panel.set_axisbelow(True)


def _legend(rows: list[Row]) -> list[Line2D]:
    present = {row["notes"]["implementation"] for row in rows}
    bandwidth = rows[0]["notes"]["copy_GB/s"]
    dot = {"color": "#666666", "marker": "o", "linestyle": "none"}
    return [
        *(
            Line2D([], [], color=COLOURS[name], marker=MARKERS[name], linestyle="none", label=name)
            for name in COLOURS
            if name in present
        ),
        Line2D([], [], color="#444444", linewidth=1.6, label=f"floor: bytes / copy bandwidth, {bandwidth:,.0f} GB/s"),
        Line2D([], [], label="filled: replayed from a CUDA graph", **dot),
        Line2D([], [], fillstyle="none", label="hollow: called eagerly", **dot),
    ]


def panels(record: Row, along: str) -> dict[str, list[Row]]:
    """Our own rows by model and kind of reward model, at the one value of the other axis that has most points."""
    across = "context" if along == "B" else "B"
    groups: dict[tuple[str, str], dict[int, list[Row]]] = {}
    for row in record["rows"]:
        notes = row["notes"]
        if notes["contender"] == "ours":
            group = groups.setdefault((notes["model"], notes["rewards"]), {})
            group.setdefault(notes[across], []).append(row)
    found = {}
    for (model, rewards), places in groups.items():
        points = {fixed: len({row["notes"][along] for row in rows}) for fixed, rows in places.items()}
        fixed = max(points, key=points.__getitem__)
        if points[fixed] >= FEWEST:
            where = f"context {fixed:,}" if across == "context" else f"batch {fixed}"
            found[f"{model}, {KINDS[rewards]}\n{where}"] = places[fixed]
    return found


def series(rows: list[Row], along: str, K: int) -> list[Row]:
    """One line: rows with K reward models by their place on the axis; the first of two at one place."""
    places: dict[int, Row] = {}
    for row in rows:
        if row["notes"]["K"] == K:
            places.setdefault(row["notes"][along], row)
    return [places[place] for place in sorted(places)]


def sweep(record: Row, along: str, path: Path) -> bool:
    """Draw one sweep; False where the rows hold none."""
    found = panels(record, along)
    if not found:
        return False
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(7.5, 4.4 * len(found)), 6.6))
        grid = figure.subplots(2, len(found), sharex="col", squeeze=False)
        for column, (title, rows) in enumerate(found.items()):
            _lines(grid[0][column], grid[1][column], rows, along)
            grid[0][column].set_title(title, loc="left", fontsize=10.5)
        grid[0][0].set_ylabel("time of a step (ms)")
        grid[1][0].set_ylabel("over plain decoding")
        handles, names = grid[0][0].get_legend_handles_labels()
        place = {"loc": "upper left", "bbox_to_anchor": (0.0, 0.955)}
        figure.legend(handles, names, ncols=len(names), frameon=False, fontsize=9, **place)
        figure.suptitle(f"decoding: cost along the {along.replace('B', 'batch')}", x=0.01, ha="left", fontweight="bold")
        figure.text(0.01, 0.01, label(record), fontsize=8, color="#555555")
        figure.tight_layout(rect=(0, 0.03, 1, 0.94))
        figure.savefig(path, dpi=150)
    return True


def _lines(times: Any, ratios: Any, rows: list[Row], along: str) -> None:
    for K in sorted({row["notes"]["K"] for row in rows}):
        line = series(rows, along, K)
        places = [row["notes"][along] for row in line]
        look = {"color": K_COLOURS[K], "marker": K_MARKERS[K], "markersize": 5, "linewidth": 1.6}
        name = "plain" if K == 0 else f"K = {K}"
        times.plot(places, [row["median_us"] / 1e3 for row in line], label=name, **look)
        floors = [row["notes"]["bytes"] / row["notes"]["copy_GB/s"] / 1e6 for row in line]
        times.plot(places, floors, color=K_COLOURS[K], linewidth=1, linestyle=DASHES)
        notes = [row["notes"] for row in line if row["notes"]["ratio"] is not None]
        middle = [note["ratio"] for note in notes]
        low = [note["ratio"] - note["ratio_low"] for note in notes]
        high = [note["ratio_high"] - note["ratio"] for note in notes]
        ratios.errorbar([note[along] for note in notes], middle, yerr=[low, high], capsize=3, **look)
    times.plot([], [], color="#666666", linewidth=1, linestyle=DASHES, label="byte floor / copy bandwidth")
    # A logarithmic axis with numbers that are read as they stand.
    times.set_yscale("log")
    times.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    times.yaxis.set_minor_locator(NullLocator())
    times.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    places = sorted({row["notes"][along] for row in rows})
    for panel in (times, ratios):
        panel.set_xscale("log", base=2)
        panel.set_xticks(places, [f"{place:,}" for place in places])
        panel.xaxis.minorticks_off()
        panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    ratios.set_ylim(bottom=min(0.9, ratios.get_ylim()[0]))
    ratios.set_xlabel(AXES[along])


def main(source: Path, folder: Path) -> None:
    record = read(source, "sampling", "decode", "speculation")
    folder.mkdir(parents=True, exist_ok=True)
    if record["suite"] == "sampling":
        roofline(record, folder / "roofline.png")
        print(folder / "roofline.png")
        return
    if record["suite"] == "speculation":
        speculation_plot.draw(record, folder / "speculation.png")
        print(folder / "speculation.png")
        return
    for name, along in (("batch", "B"), ("context", "context")):
        path = folder / f"decode-{name}.png"
        print(path if sweep(record, along, path) else f"no {name} sweep in {source}: nothing drawn")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
