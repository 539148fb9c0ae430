"""The figures as tables in Markdown and as one picture: means over seeds, and the range where there is room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.ground_truth.decoding import BETAS, BETAS_R
from experiments.ground_truth.learning import NUMBERS, RUNS
from genarm.evaluation.plots import COLOURS, MARKERS, new_figure, open_frame
from genarm.evaluation.tabular_problems import REWARDS

Result = dict[str, Any]
NAMES = {f"genarm {beta_r:g}": f"GenARM, β_r = {beta_r:g}" for beta_r in BETAS_R} | {
    "args": "ARGS", "transfer_q": "Transfer-Q", "best_of_16": "best-of-16", "base": "base",
}  # fmt: skip


def tables(result: Result) -> str:
    """All of them, each under its title."""
    parts = {
        "existence": existence(result),
        "learning: KL(trained, decoded ‖ exact optimum, decoded)": learning(result),
        "KL to π*, V = 8, T = 5": by_reward(result, 0),
        "mean reward, V = 8, T = 5": by_reward(result, 1),
        "KL to π* by horizon, V = 8, β = 0.5": by_horizon(result, 0.5),
        "counts": counts(result),
        "drawn by the methods' own code, V = 4, T = 4, β = 0.5, random rewards": drawing(result),
    }
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in parts.items())


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def figure(value: float) -> str:
    """Three digits, and no more than four places."""
    return (
        "0"
        if value == 0
        else "< 1e-4"
        if abs(value) < 5e-5
        else f"{value:.4f}"
        if abs(value) < 0.01
        else f"{value:.3f}"
    )


def existence(result: Result) -> str:
    rows = result["existence"]
    ways = dict.fromkeys(way for row in rows for way in row["kl"])
    body = [[way, *(f"{row['kl'][way]:.1e}" for row in rows)] for way in ways]
    body.append(["largest error of `GuidedDecoder.score`, nats", *(f"{row['score_error']:.1e}" for row in rows)])
    return markdown(["KL to π*, nats", *(f"seed {row['seed']}" for row in rows)], body)


def learning(result: Result) -> str:
    """A line per base, β_r and β, a column per number of pairs, each the mean over seeds and the largest. DPO's exact
    optimum is π*."""
    body = []
    for base, beta_r, betas in RUNS:
        for beta in betas:
            own = [row for row in result["learning"] if (row["base"], row["beta"]) == (base, beta)]
            arm = [row for row in own if row.get("beta_r") == beta_r]
            exact = figure(mean([row["exact_kl"] for row in arm]))
            body.append([base, f"GenARM, β_r = {beta_r:g}", f"{beta:g}", *_cells(arm, "kl_to_exact"), exact])
    dpo = [row for row in result["learning"] if row["method"] == "dpo"]
    for beta in sorted({row["beta"] for row in dpo}):
        body.append(["random", "DPO", f"{beta:g}", *_cells([row for row in dpo if row["beta"] == beta], "kl"), "0"])
    numbers = [f"{number:,} pairs" if number else "all pairs, expected" for number in NUMBERS]
    return markdown(["base", "method", "β", *numbers, "exact optimum to π*"], body)


def _cells(rows: list[dict[str, Any]], field: str) -> list[str]:
    found = [[row[field] for row in rows if row["pairs"] == number] for number in NUMBERS]
    return [f"{figure(mean(values))} ({figure(max(values))})" for values in found]


def drawing(result: Result) -> str:
    """A line per method: means over seeds."""
    body = []
    for name in dict.fromkeys(row["method"] for row in result["drawing"]):
        own = [row for row in result["drawing"] if row["method"] == name]
        error = mean([row["standard_error"] ** 2 for row in own]) ** 0.5 / len(own) ** 0.5
        exact = figure(mean([row["reward"] for row in own])) if own[0]["exact"] else ""
        drawn = f"{figure(mean([row['drawn_reward'] for row in own]))} ± {figure(error)}"
        read = [mean([_tokens(row, policies) for row in own]) for policies in (True, False)]
        how = "" if own[0]["exact"] else " (of the draws)"
        body.append(
            [name, figure(mean([row["kl"] for row in own])) + how, exact, drawn, *(f"{one:.3g}" for one in read)]
        )
    head = ["method", "KL to π*", "mean reward", "mean reward of draws", "tokens read by the LM", "by the reward model"]
    return markdown(head, body)


def _tokens(row: dict[str, Any], policies: bool) -> float:
    """Per answer, by the models that are drawn from or by all others."""
    return sum(count for model, count in row["forwarded"].items() if (model in ("base", "policy")) == policies)


def decoded(result: Result, name: str, place: int, **settings: Any) -> list[float]:
    """What a method came to under every seed: its KL (place 0) or its mean reward (1)."""
    rows = [row for row in result["decoding"] if all(row[key] == value for key, value in settings.items())]
    return [row["methods"][name][place] for row in rows]


def by_reward(result: Result, place: int) -> str:
    names = [*NAMES, *(["value"] if place else [])]
    body = []
    for reward in REWARDS:
        for beta in BETAS:
            found = [mean(decoded(result, n, place, reward=reward, beta=beta, vocab_size=8, length=5)) for n in names]
            body.append([reward, f"{beta:g}", *_marked(found, place)])
    return markdown(["reward", "β", *NAMES.values(), *(["π*"] if place else [])], body)


def by_horizon(result: Result, beta: float) -> str:
    lengths = sorted({row["length"] for row in result["decoding"] if row["vocab_size"] == 8})
    body = []
    for reward in REWARDS:
        for length in lengths:
            found = [mean(decoded(result, n, 0, reward=reward, beta=beta, vocab_size=8, length=length)) for n in NAMES]
            body.append([reward, str(length), *_marked(found, 0)])
    return markdown(["reward", "T", *NAMES.values()], body)


def _marked(values: list[float], place: int) -> list[str]:
    """The smallest divergence of a line in bold."""
    cells = [figure(value) for value in values]
    return [
        f"**{one}**" if place == 0 and value == min(values) else one for one, value in zip(cells, values, strict=True)
    ]


def counts(result: Result) -> str:
    """In how many of all problems one is nearer to π* than the other; GenARM by its β_r."""
    arms = [name for name in NAMES if name.startswith("genarm")]
    questions: dict[str, Callable[[dict[str, float], str], bool]] = {
        "nearer than the base": lambda kl, arm: kl[arm] < kl["base"],
        "nearer than best-of-16": lambda kl, arm: kl[arm] < kl["best_of_16"],
        "nearer than ARGS": lambda kl, arm: kl[arm] < kl["args"],
        "nearer than Transfer-Q": lambda kl, arm: kl[arm] < kl["transfer_q"],
    }
    rows = [{name: found[0] for name, found in row["methods"].items()} for row in result["decoding"]]
    body = [[NAMES[arm], *(str(sum(ask(kl, arm) for kl in rows)) for ask in questions.values())] for arm in arms]
    return markdown([f"of {len(rows)} problems", *questions], body)


def draw(result: Result, path: Path) -> None:
    """KL by horizon for two kinds of reward, by β_r, and by the number of pairs."""
    sheet = new_figure(12.0, 8.4)
    panels = sheet.subplots(2, 2).flatten()
    for axes, reward in zip(panels, ("random", "additive"), strict=False):
        lengths = sorted({row["length"] for row in result["decoding"] if row["vocab_size"] == 8})
        for name in ("base", "best_of_16", "args", "genarm 0.5", "genarm 64"):
            own = [decoded(result, name, 0, reward=reward, beta=0.5, vocab_size=8, length=t) for t in lengths]
            _line(axes, lengths, own, NAMES[name])
        _frame(axes, f"By horizon: {reward} rewards, V = 8, β = 0.5", "T, tokens of an answer", "KL to π*, nats")
        axes.set_xticks(lengths)
    for reward in REWARDS:
        own = [decoded(result, f"genarm {b:g}", 0, reward=reward, beta=1.0, vocab_size=8, length=5) for b in BETAS_R]
        _line(panels[2], BETAS_R, own, f"{reward} rewards")
    panels[2].set_xscale("log")
    _frame(panels[2], "GenARM from the exact optimum, V = 8, T = 5, β = 1", "β_r of the training", "KL to π*, nats")
    numbers = [number for number in NUMBERS if number]
    for base, beta_r, _ in RUNS:
        rows = [r for r in result["learning"] if (r["base"], r["beta"], r.get("beta_r")) == (base, 1.0, beta_r)]
        own = [[row["kl_to_exact"] for row in rows if row["pairs"] == number] for number in numbers]
        _line(panels[3], numbers, own, f"{base} base, β_r = {beta_r:g}")
    panels[3].axhline(0.01, color="#888888", linewidth=1, linestyle=":")
    panels[3].set_xscale("log")
    _frame(panels[3], "Learning, V = 4, T = 3, β = 1", "preference pairs", "KL(trained ‖ exact optimum), nats")
    sheet.savefig(path)


def _line(axes: Any, places: Sequence[float], values: list[list[float]], label: str) -> None:
    """The mean over seeds, and their range as a bar; a colour and a marker for each line of a panel."""
    number = len(axes.containers)
    means = [mean(own) for own in values]
    bars = [
        [m - min(v) for m, v in zip(means, values, strict=True)],
        [max(v) - m for m, v in zip(means, values, strict=True)],
    ]
    look = {"color": COLOURS[number], "marker": MARKERS[number], "linewidth": 1.2, "markersize": 5, "capsize": 2}
    axes.errorbar(places, means, bars, label=label, **look)


def _frame(axes: Any, title: str, across: str, up: str) -> None:
    axes.set_yscale("log")
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(f"{across} (bars: range over seeds)")
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="best")
    open_frame(axes)
