"""Tables and a picture of the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genarm.evaluation.plots import COLOURS, MARKERS, new_figure, open_frame

Figures = dict[str, Any]
LARGE = "large"


def tables(figures: Figures) -> str:
    """All tables, as Markdown."""
    return "\n\n".join(
        [
            _table(
                ["base", "parameters", "nats per token on test statements", "base alone", "its AR-RM"], _models(figures)
            ),
            _table(["base", "reward model", "weight", *(head for head, _ in COLUMNS)], _points(figures)),
            _table(
                ["base", "reward model", "KL, nats per text", "by the classifier", "by the judge"], _gaps(figures, "kl")
            ),
            _table(
                ["base", "reward model", "weight of both", "by the classifier", "by the judge"],
                _gaps(figures, "weight"),
            ),
            _table(
                ["reward model", "batch", "ms per step", "over no guidance (quartiles)", "floor by bytes", "MiB read"],
                _overhead(figures),
            ),
        ]
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(found: dict[str, float | None], points: str = "value") -> str:
    """`62 [55, 70]` percent; a dash where nothing is defined."""
    if found["value"] is None:
        return "–"
    ends = "no interval" if found["low"] is None else f"{100 * found['low']:.0f}, {100 * found['high']:.0f}"
    return f"{100 * found['value']:.0f} [{ends}]"


def number(found: dict[str, float]) -> str:
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


COLUMNS = (
    ("about art, %", lambda row: percent(row["about"])),
    ("judge's score", lambda row: number(row["judged"])),
    ("KL, nats per text", lambda row: number(row["kl"])),
    ("base nats per token", lambda row: f"{row['base_nll_per_token']:.2f}"),
    ("tokens", lambda row: f"{row['mean_tokens']:.1f}"),
    ("distinct texts, %", lambda row: f"{100 * row['distinct']:.0f}"),
)


def _models(figures: Figures) -> list[list[str]]:
    return [
        [
            f"{name} ({facts['hidden']} x {facts['layers']})",
            f"{facts['parameters'] / 1e6:.2f} M",
            f"{facts['test_loss_per_token']:.3f}",
            *(_share(facts[key]) for key in ("base_accuracy", "arm_accuracy")),
        ]
        for name, facts in figures["models"].items()
    ]


def _share(found: dict[str, float]) -> str:
    return f"{100 * found['share']:.1f} [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def _points(figures: Figures) -> list[list[str]]:
    return [
        [row["base"], row["reward_model"] or "none", f"{row['weight']:g}", *(show(row) for _, show in COLUMNS)]
        for row in figures["points"]
    ]


def _gaps(figures: Figures, at: str) -> list[list[str]]:
    rows = [row for row in figures["gaps"] if row["at"] == at]
    keys = dict.fromkeys((row["base"], row["reward_model"], row["value"]) for row in rows)
    by = {(row["base"], row["reward_model"], row["value"], row["score"]): row["recovered"] for row in rows}
    return [
        [key[0], key[1], f"{key[2]:.3g}", *(percent(by[(*key, score)]) for score in ("about", "judged"))]
        for key in keys
    ]


def _overhead(figures: Figures) -> list[list[str]]:
    return [
        [
            row["reward_model"],
            str(row["batch"]),
            f"{1000 * row['seconds_per_step']:.2f}",
            f"{row['ratio']:.2f} ({row['quartiles'][0]:.2f}–{row['quartiles'][1]:.2f})",
            f"{row['floor']:.2f}",
            f"{row['weights_mib']:.1f}",
        ]
        for row in figures["overhead"]
    ]


def draw(figures: Figures, path: Path) -> None:
    """What the large base says at which distance, the share recovered, and the price."""
    figure = new_figure(14.0, 4.6)
    curves, gap, price = figure.subplots(1, 3)
    _draw_curves(curves, figures)
    _draw_gaps(gap, figures)
    _draw_price(price, figures)
    for axes in (curves, gap, price):
        axes.grid(alpha=0.3)
        open_frame(axes)
    figure.savefig(path)


def _look(figures: Figures, size: str) -> dict[str, Any]:
    place = list(figures["models"]).index(size)
    return {"color": COLOURS[place], "marker": MARKERS[place]}


def _draw_curves(axes: Any, figures: Figures) -> None:
    alone = [row for row in figures["points"] if row["base"] == LARGE and row["reward_model"] is None]
    for size in figures["models"]:
        rows = alone + [row for row in figures["points"] if row["base"] == LARGE and row["reward_model"] == size]
        values = [100 * row["about"]["value"] for row in rows]
        spread = [
            [100 * (row["about"]["value"] - row["about"]["low"]) for row in rows],
            [100 * (row["about"]["high"] - row["about"]["value"]) for row in rows],
        ]
        places = [row["kl"]["value"] for row in rows]
        axes.errorbar(places, values, spread, label=f"{size} reward model", capsize=2, **_look(figures, size))
    axes.set_title("The large base, weights 0 to 2", loc="left", fontsize=11)
    axes.set_xscale("symlog", linthresh=1)  # texts that fall apart are ten times as far away as others
    ticks = (0, 1, 3, 10, 30, 100)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlabel("KL to the base, nats per text")
    axes.set_ylabel("texts about art, % (95% intervals)")
    axes.legend(frameon=False, fontsize=9, loc="best")


def _draw_gaps(axes: Any, figures: Figures) -> None:
    strokes = {"about": "-", "judged": "--"}
    words = {"about": "classifier", "judged": "judge"}
    rows = [row for row in figures["gaps"] if row["base"] == LARGE and row["at"] == "kl"]
    keys = list(dict.fromkeys((row["reward_model"], row["score"]) for row in rows))
    widest = max((row["value"] for row in rows), default=1.0)
    for shift, (size, score) in enumerate(keys):
        own = [row for row in rows if (row["reward_model"], row["score"]) == (size, score)]
        own = [row for row in own if row["recovered"]["low"] is not None]
        found = [{name: 100 * value for name, value in row["recovered"].items()} for row in own]
        spread = [[one["value"] - one["low"] for one in found], [one["high"] - one["value"] for one in found]]
        places = [row["value"] + 0.01 * widest * (shift - (len(keys) - 1) / 2) for row in own]
        look = {
            **_look(figures, size),
            "linestyle": strokes[score],
            "capsize": 2,
            "label": f"{size}, by the {words[score]}",
        }
        axes.errorbar(places, [one["value"] for one in found], spread, **look)
    axes.axhline(100, color="#777777", linewidth=1, linestyle=":")
    axes.set_title("Share of the large RM's gain", loc="left", fontsize=11)
    axes.set_xlabel("KL of both to the base, nats per text")
    axes.set_ylabel("gap recovered, % (95% intervals)")
    axes.legend(frameon=False, fontsize=9, loc="best")


def _draw_price(axes: Any, figures: Figures) -> None:
    names = list(dict.fromkeys(row["reward_model"] for row in figures["overhead"]))
    batches = list(dict.fromkeys(row["batch"] for row in figures["overhead"]))
    for number, batch in enumerate(batches):
        rows = [row for row in figures["overhead"] if row["batch"] == batch]
        spread = [
            [row["ratio"] - row["quartiles"][0] for row in rows],
            [row["quartiles"][1] - row["ratio"] for row in rows],
        ]
        places = [names.index(row["reward_model"]) + 0.16 * (number - 0.5) for row in rows]
        look = {"fmt": MARKERS[number], "color": COLOURS[number], "capsize": 2, "label": f"measured, batch {batch}"}
        axes.errorbar([row["ratio"] for row in rows], places, xerr=spread, **look)
    floors = [row for row in figures["overhead"] if row["batch"] == batches[0]]
    axes.plot(
        [row["floor"] for row in floors], range(len(names)), "|", color="black", markersize=14, label="floor by bytes"
    )
    axes.set_yticks(range(len(names)), [name.replace(", ", ",\n") for name in names], fontsize=9)
    axes.invert_yaxis()
    axes.set_title("Price on the large base", loc="left", fontsize=11)
    axes.set_xlabel("seconds per token over no guidance")
    axes.legend(frameon=False, fontsize=9, loc="best")
