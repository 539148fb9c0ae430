"""Tables and a picture of the figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from genarm.evaluation.accuracy import BUCKET_HEADS
from genarm.evaluation.plots import COLOURS, MARKERS, new_figure, open_frame

Figures = dict[str, Any]
CELLS = (("base", "base"), ("guided", "base"), ("guided", "guided"), ("base", "guided"))
PARTS = {"content_part": "what is written", "eos_part": "when EOS is drawn"}


def tables(figures: Figures) -> str:
    """All tables, as Markdown."""
    objectives = figures["objectives"]
    weights = [row["weight"] for row in next(iter(objectives.values()))["lengths"]]
    buckets = [head.replace("\n", " ") for head in BUCKET_HEADS]
    return "\n\n".join(
        [
            _table(["tokens per text", *(f"w = {weight:g}" for weight in weights)], _lengths(objectives)),
            _table(
                ["expected tokens, w = 1", *(f"{one} content, {two} endings" for one, two in CELLS)], _cells(objectives)
            ),
            _table(
                ["change of tokens, w = 1", "all", *(f"by {words}" for words in PARTS.values())], _parts(objectives)
            ),
            _table(
                ["log-probability per token of base texts", "EOS: base", "EOS: AR-RM", "others: base", "others: AR-RM"],
                _rewards(objectives),
            ),
            *(
                f"Pairs of {name}:\n\n"
                + _table(
                    ["objective", "scorer", "pairs", "accuracy, %", "balanced", "picks longer", *buckets],
                    list(_accuracies(objectives, number)),
                )
                for number, name in enumerate(("any length", "like lengths"))
            ),
        ]
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _tokens(found: dict[str, float], form: str = ".1f") -> str:
    return f"{found['value']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"


def _percent(found: dict[str, float] | None) -> str:
    return "–" if found is None else f"{100 * found['value']:.0f} [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"


def _lengths(objectives: Figures) -> list[list[str]]:
    return [[name, *(_tokens(row["tokens"]) for row in facts["lengths"])] for name, facts in objectives.items()]


def _cells(objectives: Figures) -> list[list[str]]:
    names = [f"{content} content, {ending} endings" for content, ending in CELLS]
    return [[name, *(_tokens(facts["parts"]["lengths"][cell]) for cell in names)] for name, facts in objectives.items()]


def _parts(objectives: Figures) -> list[list[str]]:
    return [
        [name, *(_tokens(facts["parts"][part], "+.1f") for part in ("change", *PARTS))]
        for name, facts in objectives.items()
    ]


def _rewards(objectives: Figures) -> list[list[str]]:
    keys = ("eos_base", "eos_reward", "other_base", "other_reward")
    found = {name: [facts["eos"][key] for key in keys] for name, facts in objectives.items()}
    return [[name, *("–" if value is None else f"{value:.2f}" for value in row)] for name, row in found.items()]


def label(scorer: dict[str, Any]) -> str:
    name = "base alone" if scorer["kind"] == "base" else scorer["name"]
    return {"sum": f"{name}, sum", "mean": f"{name}, mean per token", "score": name}[scorer["reduction"]]


def _accuracies(objectives: Figures, number: int) -> Iterator[list[str]]:
    for name, facts in objectives.items():
        report = facts["accuracy"][number]
        for scorer in report["scorers"]:
            shares = [scorer[key] for key in ("accuracy", "length_balanced_accuracy", "picks_longer")]
            buckets = [f"{_percent(part['accuracy'])} n={part['pairs']}" for part in scorer["length_buckets"]]
            yield [name, label(scorer), str(report["pairs"]), *map(_percent, shares), *buckets]
        for rule in report["length_baselines"]:
            yield [name, rule["name"], str(rule["pairs"]), _percent(rule["accuracy"]), *["–"] * (2 + len(BUCKET_HEADS))]


def draw(figures: Figures, path: Path) -> None:
    """Length against weight, what the change is made of, and accuracy by which response is longer."""
    figure = new_figure(14.5, 4.6)
    lengths, parts, accuracy = figure.subplots(1, 3)
    _draw_lengths(lengths, figures["objectives"])
    _draw_parts(parts, figures["objectives"])
    _draw_accuracy(accuracy, figures["objectives"])
    for axes in (lengths, parts, accuracy):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="best")
        open_frame(axes)
    figure.savefig(path)


def _spread(found: Sequence[dict[str, float]], scale: float = 1.0) -> tuple[list[float], list[list[float]]]:
    values = [scale * one["value"] for one in found]
    low, high = ([scale * abs(one[end] - one["value"]) for one in found] for end in ("low", "high"))
    return values, [low, high]


def _draw_lengths(axes: Any, objectives: Figures) -> None:
    for place, (name, facts) in enumerate(objectives.items()):
        values, spread = _spread([row["tokens"] for row in facts["lengths"]])
        weights = [row["weight"] + 0.015 * (place - 1.5) for row in facts["lengths"]]
        axes.errorbar(weights, values, spread, label=name, capsize=2, color=COLOURS[place], marker=MARKERS[place])
    axes.set_ylim(bottom=0)
    axes.set_title("Length of guided texts", loc="left", fontsize=11)
    axes.set_xlabel("guidance weight")
    axes.set_ylabel("tokens per text (95% intervals)")


def _draw_parts(axes: Any, objectives: Figures) -> None:
    for number, (part, words) in enumerate(PARTS.items()):
        values, spread = _spread([facts["parts"][part] for facts in objectives.values()])
        places = [place + 0.36 * (number - 0.5) for place in range(len(objectives))]
        axes.bar(places, values, 0.34, yerr=spread, capsize=3, color=COLOURS[number], label=f"by {words}")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(objectives)), list(objectives))
    axes.set_title("What changes the length at weight 1", loc="left", fontsize=11)
    axes.set_ylabel("tokens per text (95% intervals)")


def _draw_accuracy(axes: Any, objectives: Figures) -> None:
    """Of the objective with most scorers, on pairs of any length."""
    name, facts = max(objectives.items(), key=lambda item: len(item[1]["accuracy"][0]["scorers"]))
    report = facts["accuracy"][0]
    scorers = [one for one in report["scorers"] if one["kind"] != "base" or one["reduction"] == "sum"]
    for place, scorer in enumerate(scorers):
        known = [(number, part["accuracy"]) for number, part in enumerate(scorer["length_buckets"]) if part["accuracy"]]
        values, spread = _spread([part for _, part in known], 100)
        places = [number + 0.1 * (place - (len(scorers) - 1) / 2) for number, _ in known]
        axes.errorbar(
            places, values, spread, label=label(scorer), capsize=2, color=COLOURS[place], marker=MARKERS[place]
        )
    counts = [part["pairs"] for part in scorers[0]["length_buckets"]]
    ticks = [f"{head}\nn = {count}" for head, count in zip(BUCKET_HEADS, counts, strict=True)]
    axes.set_xticks(range(len(ticks)), ticks, fontsize=8)
    axes.axhline(50, color="#777777", linewidth=1, linestyle=":")
    axes.set_title(f"Pairs of any length, {name}: by which is longer", loc="left", fontsize=11)
    axes.set_ylabel("pairs ordered right, % (95% intervals)")
