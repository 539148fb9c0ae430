"""Draws a suite's rows over the bytes they must read, with the floor that copy bandwidth sets, and tabulates them.

    python -m bench.roofline out/device/sampling.json out/roofline.png

Writes the picture and, beside it, the same rows as a markdown table.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Row = dict[str, Any]
# Okabe and Ito's palette: told apart by every kind of colour vision.
COLOURS = {
    "ours": "#D55E00",
    "ours+logprobs": "#E69F00",
    "eager": "#0072B2",
    "compiled": "#009E73",
    "hf": "#CC79A7",
    "flashinfer": "#000000",
}
MARKERS = {"ours": "o", "ours+logprobs": "P", "eager": "s", "compiled": "^", "hf": "v", "flashinfer": "D"}
TITLES = {
    "none": "no filter",
    "top_k": "top-k 50",
    "top_p": "top-p 0.9",
    "top_k+top_p": "top-k 50 + top-p 0.9",
    "min_p": "min-p 0.05",
}
MULTIPLES = (10, 100)


def read(path: Path) -> Row:
    """Any suite's record, with rows, or SystemExit with what is wrong with it."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} cannot be read as a suite's JSON: {error}") from None
    rows = record.get("rows") if isinstance(record, dict) else None
    if not rows:
        raise SystemExit(f"{path} has no rows: write it with bench/device.sh")
    return record


def load(path: Path) -> Row:
    """The sampling suite's record, or SystemExit with what is wrong with it."""
    record = read(path)
    if not all({"copy_GB/s", "bytes", "implementation", "filters"} <= row["notes"].keys() for row in record["rows"]):
        raise SystemExit(f"{path} has rows without bytes or copy bandwidth: only the sampling suite can be drawn")
    return record


def label(record: Row) -> str:
    """Where the figures come from: device, versions, commit."""
    names = ("torch", "triton", "transformers", "flashinfer-python")
    versions = record.get("versions", {})
    used = ", ".join(f"{name} {versions[name]}" for name in names if versions.get(name))
    return f"{record['device']}  ·  {used}  ·  commit {record['commit'] or 'unknown'}"


def draw(record: Row, path: Path) -> None:
    """One panel a filter, time against bytes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = record["rows"]
    names = [name for name in TITLES if any(row["notes"]["filters"] == name for row in rows)]
    columns = min(3, len(names) + 1)
    lines = -(-(len(names) + 1) // columns)
    style = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
    with plt.rc_context(style):
        figure, grid = plt.subplots(
            lines, columns, figsize=(4.6 * columns, 3.7 * lines), sharex=True, sharey=True, squeeze=False
        )
        panels = list(grid.flat)
        for panel, name in zip(panels, names, strict=False):
            _panel(panel, [row for row in rows if row["notes"]["filters"] == name], rows)
            panel.set_title(TITLES[name], loc="left", fontweight="bold")
        _decorate(figure, grid, len(names), record)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _panel(panel: Any, rows: list[Row], everything: list[Row]) -> None:
    """The floor, its multiples, and every implementation's points."""
    sizes = [row["notes"]["bytes"] for row in everything]
    ends = [min(sizes) / 1.6, max(sizes) * 1.6]
    floor = 1e6 / (everything[0]["notes"]["copy_GB/s"] * 1e9)  # µs a byte
    panel.plot(ends, [size * floor for size in ends], color="#444444", linewidth=1.6, zorder=1)
    for multiple in (1, *MULTIPLES):
        times = [size * floor * multiple for size in ends]
        if multiple > 1:
            panel.plot(ends, times, color="#BBBBBB", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        text = f"{multiple}×" if multiple > 1 else "floor"
        panel.annotate(
            text, (ends[1], times[1]), (2, 0), textcoords="offset points", fontsize=7, color="#777777", va="center"
        )
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


def _decorate(figure: Any, grid: Any, used: int, record: Row) -> None:
    """Axis labels, the legend in the first free panel, and the label that says where the figures come from."""
    from matplotlib.lines import Line2D

    panels, columns = list(grid.flat), grid.shape[1]
    for index, panel in enumerate(panels[:used]):
        if index % columns == 0:
            panel.set_ylabel("median time of a call (µs)")
        if index + columns >= used:
            panel.set_xlabel("bytes of logits a call must read")
            panel.tick_params(labelbottom=True)
    for panel in panels[used:]:
        panel.axis("off")
    present = {row["notes"]["implementation"] for row in record["rows"]}
    handles = [
        Line2D([], [], color=COLOURS[name], marker=MARKERS[name], linestyle="none", label=name)
        for name in COLOURS
        if name in present
    ]
    bandwidth = record["rows"][0]["notes"]["copy_GB/s"]
    handles += [
        Line2D([], [], color="#444444", linewidth=1.6, label=f"floor: bytes / copy bandwidth, {bandwidth:,.0f} GB/s"),
        Line2D([], [], color="#666666", marker="o", linestyle="none", label="filled: replayed from a CUDA graph"),
        Line2D([], [], color="#666666", marker="o", fillstyle="none", linestyle="none", label="hollow: called eagerly"),
    ]
    panels[used].legend(handles=handles, loc="center left", frameon=False)
    figure.suptitle(f"{record['suite']}: time against bytes", x=0.01, ha="left", fontsize=14, fontweight="bold")
    figure.text(0.01, 0.012, label(record), fontsize=8.5, color="#555555")
    figure.tight_layout(rect=(0, 0.03, 1, 0.98))


def table(record: Row) -> str:
    """A line a shape and filter, a column an implementation; the share of copy bandwidth is the library's."""
    rows = record["rows"]
    present = [name for name in COLOURS if any(row["notes"]["implementation"] == name for row in rows)]
    cases: dict[tuple[str, int, int, int], dict[str, Row]] = {}
    for row in rows:
        notes = row["notes"]
        cases.setdefault((notes["filters"], notes["B"], notes["M"], notes["V"]), {})[notes["implementation"]] = row
    head = ["filters", "B", "M", "V", *(f"{name} µs" for name in present), "ours GB/s", "ours share of copy"]
    lines = [label(record), "", " | ".join(["", *head, ""]).strip(), "|" + "---|" * len(head)]
    for case in sorted(cases, key=lambda case: (list(TITLES).index(case[0]), *case[1:])):
        found = cases[case]
        cells = [TITLES[case[0]], *map(str, case[1:]), *(_cell(found.get(name)) for name in present)]
        ours = found["ours"]["notes"] if "ours" in found else None
        cells += [f"{ours['GB/s']:.3g}", f"{ours['share_of_copy']:.0%}"] if ours else ["", ""]
        lines.append(" | ".join(["", *cells, ""]).strip())
    return "\n".join([*lines, "", "* called eagerly, not replayed from a CUDA graph", ""])


def _cell(row: Row | None) -> str:
    return f"{row['median_us']:.4g}{'' if row['notes']['mode'] == 'graph' else '*'}" if row else ""


def main(source: Path, picture: Path) -> None:
    record = load(source)
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(record, picture)
    picture.with_suffix(".md").write_text(table(record))
    print(f"{picture} and {picture.with_suffix('.md')}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
