"""What the figures of a run say about it, in sentences: whether it learned anything, and what to change if not."""

from __future__ import annotations

from typing import Any

CHANCE = 0.5
LEARNED = 0.8  # of the pairs trained on: what is missing then is not more training
FEW = 50
RISE = 1.5


def reward_model_guides(record: dict[str, Any]) -> bool:
    """Whether there is no reason to advise against guiding with it: a held-out interval that reaches down to 50%, or
    weights that training left as they were."""
    interval = record["metrics"].get("eval_accuracy_interval")
    return not record["metrics"].get("unchanged") and (interval is None or interval[0] > CHANCE)


def remarks(record: dict[str, Any]) -> list[str]:
    """Sentences about a complete run, the gravest first; none where there is nothing to say."""
    return [text for find in (_unchanged, _exploded, _chance, _no_value, _warm_up, _seen) for text in find(record)]


def _unchanged(record: dict[str, Any]) -> list[str]:
    if not record["metrics"].get("unchanged"):
        return []
    return [
        "the weights are the same as before training, so that every reward is the base's own: raise --learning-rate "
        f"(it was {record['settings']['learning_rate']:g}) or --epochs"
    ]


def _exploded(record: dict[str, Any]) -> list[str]:
    """A loss that rose over the run, by its first and its last logs."""
    losses = [logs["loss"] for logs in record["history"] if "loss" in logs]
    part = max(1, len(losses) // 4)
    first, last = (sum(some) / part for some in (losses[:part], losses[-part:])) if losses else (0.0, 0.0)
    if last <= max(RISE * first, 1.0):
        return []
    rate = record["settings"]["learning_rate"]
    return [
        f"the loss rose from {first:.2f} to {last:.2f}: the learning rate {rate:g} is too high for this base, start "
        f"over with --learning-rate {rate / 5:.1e} --overwrite"
    ]


def _chance(record: dict[str, Any]) -> list[str]:
    metrics = record["metrics"]
    interval = metrics.get("eval_accuracy_interval")
    if interval is None or interval[0] > CHANCE or metrics.get("unchanged"):
        return []
    shown = f"its 95% interval on held-out pairs, {100 * interval[0]:.1f} to {100 * interval[1]:.1f}%,"
    if interval[1] < CHANCE:
        return [
            f"this reward model orders pairs the wrong way round: {shown} lies below 50%. Either the held-out pairs "
            "have chosen and rejected swapped, or nothing was learned: see genarm evaluate accuracy for what the base "
            "alone prefers"
        ]
    return [f"this reward model is no better than chance: {shown} holds 50%. {_what_to_change(record)}"]


def _no_value(record: dict[str, Any]) -> list[str]:
    """A value head that a constant would do as well as."""
    metrics = record["metrics"]
    if "eval_mse" not in metrics or metrics["eval_mse"] < metrics["eval_variance"] or metrics.get("unchanged"):
        return []
    return [
        f"this value head says no more of held-out rewards than their mean does: its mean squared error is "
        f"{metrics['eval_mse']:.3g}, their variance {metrics['eval_variance']:.3g}. Train on more prompts or "
        f"--samples, or change --epochs (they were {record['settings'].get('epochs'):g}) or --learning-rate (it was "
        f"{record['settings']['learning_rate']:g})"
    ]


def _what_to_change(record: dict[str, Any]) -> str:
    settings, learned = record["settings"], record["metrics"].get("train_accuracy") or 0.0
    held_out, rate = record["data"]["held out"]["pairs"], settings["learning_rate"]
    if learned >= LEARNED and held_out < FEW:
        return (
            f"Only {held_out} pairs are held out, which is few to tell by: name more with --eval-data, or raise "
            "--eval-share"
        )
    if learned >= LEARNED:
        return (
            f"Of the pairs it was trained on it orders {100 * learned:.0f}% right, so it knows them by heart: train on "
            "more pairs, or with fewer --epochs or a lower --learning-rate"
        )
    return (
        f"It was trained for too short a time or too gently: raise --epochs (they were {settings.get('epochs'):g}) or "
        f"--learning-rate (it was {rate:g}), or train on more pairs"
    )


def _warm_up(record: dict[str, Any]) -> list[str]:
    warmup, steps = record["settings"].get("warmup", 0), record["metrics"]["steps"]
    if warmup < 1 or warmup < steps:
        return []
    return [
        f"the warm-up of {warmup:g} steps is as long as the run of {steps}, so that the learning rate never reached "
        "its peak: lower --warmup"
    ]


def _seen(record: dict[str, Any]) -> list[str]:
    """Held-out pairs that were trained on."""
    held = record["data"]["held out"]
    count, pairs = held.get("trained_on", 0), held.get("pairs", 0)
    if not count:
        return []
    return [
        f"{count} of the {pairs} held-out pairs were trained on too, so that the held-out accuracy says too much: "
        "name other pairs with --eval-data"
    ]
