"""How the cost of a step grows with the batch and with the context, drawn from the decoding suite's rows.

    python -m bench.decode_plot out/device/decode.json out/plots

Writes decode-batch.png and decode-context.png: a column of panels a model, the time of a step above and its ratio to
plain decoding below, one line a number of reward models, the byte floor dashed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bench.decode_table import load
from bench.roofline import label

Row = dict[str, Any]
# Okabe and Ito's palette: told apart by every kind of colour vision.
COLOURS = {0: "#000000", 1: "#0072B2", 2: "#009E73", 3: "#D55E00"}
MARKERS = {0: "o", 1: "s", 2: "^", 3: "D"}
SWEEPS = {"batch": "B", "context": "context"}
TITLES = {"B": "sequences in the batch", "context": "tokens cached a sequence"}
FEWEST = 3  # points that make a sweep
KINDS = {"lora": "LoRA reward models", "separate": "separate reward models"}


def panels(record: Row, along: str) -> dict[str, list[Row]]:
    """Our own rows by model and kind of reward model, at the one value of the other axis that has most points."""
    across = "context" if along == "B" else "B"
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in record["rows"]:
        notes = row["notes"]
        if notes["contender"] == "ours":
            groups.setdefault((notes["model"], notes["rewards"], notes[across]), []).append(row)
    found: dict[str, list[Row]] = {}
    widest: dict[str, int] = {}
    for (model, rewards, fixed), rows in groups.items():
        points = len({row["notes"][along] for row in rows})
        where = f"context {fixed:,}" if across == "context" else f"batch {fixed}"
        if points > widest.get(f"{model} {rewards}", FEWEST - 1):
            widest[f"{model} {rewards}"] = points
            found = {title: own for title, own in found.items() if not title.startswith(f"{model}, {KINDS[rewards]}")}
            found[f"{model}, {KINDS[rewards]}\n{where}"] = rows
    return found


def series(rows: list[Row], along: str, K: int) -> list[Row]:
    """One line: rows with K reward models by their place on the axis; the first of two at one place."""
    places: dict[int, Row] = {}
    for row in rows:
        if row["notes"]["K"] == K:
            places.setdefault(row["notes"][along], row)
    return [places[place] for place in sorted(places)]


def draw(record: Row, along: str, path: Path) -> bool:
    """Draw one sweep; False where the rows hold none."""
    found = panels(record, along)
    if not found:
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
    with plt.rc_context(style):
        size = (max(7.5, 4.4 * len(found)), 6.6)
        figure, grid = plt.subplots(2, len(found), figsize=size, sharex="col", squeeze=False)
        for column, (title, rows) in enumerate(found.items()):
            _panel(grid[0][column], grid[1][column], rows, along)
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
        plt.close(figure)
    return True


def _panel(times: Any, ratios: Any, rows: list[Row], along: str) -> None:
    for K in sorted({row["notes"]["K"] for row in rows}):
        line = series(rows, along, K)
        places = [row["notes"][along] for row in line]
        look = {"color": COLOURS[K], "marker": MARKERS[K], "markersize": 5, "linewidth": 1.6}
        name = "plain" if K == 0 else f"K = {K}"
        times.plot(places, [row["median_us"] / 1e3 for row in line], label=name, **look)
        floors = [row["notes"]["bytes"] / row["notes"]["copy_GB/s"] / 1e6 for row in line]
        times.plot(places, floors, color=COLOURS[K], linewidth=1, linestyle=(0, (4, 3)))
        notes = [row["notes"] for row in line if row["notes"]["ratio"] is not None]
        spread = [
            [note["ratio"] - note["ratio_low"] for note in notes],
            [note["ratio_high"] - note["ratio"] for note in notes],
        ]
        ratios.errorbar(
            [note[along] for note in notes], [note["ratio"] for note in notes], yerr=spread, capsize=3, **look
        )
    times.plot([], [], color="#666666", linewidth=1, linestyle=(0, (4, 3)), label="byte floor / copy bandwidth")
    _plain_log(times)
    places = sorted({row["notes"][along] for row in rows})
    for panel in (times, ratios):
        panel.set_xscale("log", base=2)
        panel.set_xticks(places, [f"{place:,}" for place in places])
        panel.xaxis.minorticks_off()
        panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    ratios.set_ylim(bottom=min(0.9, ratios.get_ylim()[0]))
    ratios.set_xlabel(TITLES[along])


def _plain_log(panel: Any) -> None:
    """A logarithmic axis with numbers that are read as they stand."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def main(source: Path, folder: Path) -> None:
    record = load(source)
    folder.mkdir(parents=True, exist_ok=True)
    for name, along in SWEEPS.items():
        path = folder / f"decode-{name}.png"
        print(path if draw(record, along, path) else f"no {name} sweep in {source}: nothing drawn")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
