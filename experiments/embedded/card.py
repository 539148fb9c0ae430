"""The model card of the embedded models: card.md filled in from metrics.json, so that the two agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).with_suffix(".md")


def interval(figure: dict[str, float]) -> str:
    return f"{100 * figure['share']:.1f}% [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def accuracy_rows(metrics: dict[str, Any]) -> str:
    columns = ("accuracy", "accuracy_stance", "accuracy_topic", "base_alone", "longer_wins")
    return "\n".join(
        f"| {name} | {figures['test_pairs']} | " + " | ".join(interval(figures[column]) for column in columns) + " |"
        for name, figures in metrics["reward_models"].items()
    )


def activated_rows(metrics: dict[str, Any]) -> str:
    rows = []
    for name, figures in metrics["activated"]["reward_models"].items():
        cells = [interval(metrics["reward_models"][name]["accuracy"])]
        cells += [interval(figures[column]) for column in ("accuracy", "accuracy_stance", "accuracy_topic")]
        own = figures["difference"]
        apart = f"{100 * own['share']:+.1f} [{100 * own['low']:+.1f}, {100 * own['high']:+.1f}]"
        rows.append(
            f"| {name} | {figures['longer_prompts']} of {figures['test_pairs']} | {' | '.join([*cells, apart])} |"
        )
    return "\n".join(rows)


def share_rows(metrics: dict[str, Any]) -> str:
    rows = []
    for name, figures in metrics["guided_text"].items():
        cells = [interval(figures["base"]), *(interval(guided) for guided in figures["guided"].values())]
        own = figures["classifier"]
        rows.append(f"| {name} | {' | '.join(cells)} | {own['precision']:.2f}, {own['recall']:.2f} |")
    return "\n".join(rows)


def variety_rows(metrics: dict[str, Any]) -> str:
    rows = []
    for name, figures in metrics["guided_text"].items():
        cells = [
            f"{cell['distinct']} / {cell['mean_tokens']}" for cell in (figures["base"], *figures["guided"].values())
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def render_card(metrics: dict[str, Any]) -> str:
    base, training = metrics["base"], metrics["training"]
    measured = metrics["environment"]
    return TEMPLATE.read_text(encoding="utf-8").format(
        millions=base["parameters"] / 1e6,
        vocabulary=base["vocabulary"],
        context=base["context"],
        seed=training["seed"],
        seconds=training["seconds"],
        threads=training["environment"]["threads"],
        precision=training["precision"],
        statements=base["train_statements"],
        epochs=base["epochs"],
        beta=training["beta_r"],
        arm_epochs=training["arm_epochs"],
        versions=", ".join(f"{name} {measured[name]}" for name in ("torch", "transformers", "peft", "scikit-learn")),
        loss=base["test_loss_per_token"],
        test_statements=base["test_statements"],
        accuracies=accuracy_rows(metrics),
        samples=next(iter(metrics["guided_text"].values()))["base"]["samples"],
        activated=activated_rows(metrics),
        activated_precision=metrics["activated"]["training"]["precision"],
        activated_seconds=metrics["activated"]["training"]["seconds"],
        activated_threads=metrics["activated"]["training"]["environment"]["threads"],
        shares=share_rows(metrics),
        variety=variety_rows(metrics),
    )


def write_card(assets: Path, metrics: dict[str, Any]) -> None:
    (assets / "README.md").write_text(render_card(metrics), encoding="utf-8")
