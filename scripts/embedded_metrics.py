"""Figures of the embedded models: intervals, pair accuracies, and the metrics.json they are kept in."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from genarm.preferences.encoding import encode_pairs
from genarm.preferences.pairs import PreferencePair, read_pairs
from genarm.preferences.scoring import pair_rewards

PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "scikit-learn")


def environment() -> dict[str, Any]:
    """What the figures were measured with: versions and the number of threads, nothing that names a machine."""
    return {
        "python": platform.python_version(),
        **{name: version(name).split("+")[0] for name in PACKAGES},
        "device": "cpu",
        "threads": torch.get_num_threads(),
    }


def wilson(successes: int, count: int) -> dict[str, float]:
    """A share of independent trials with its Wilson 95% interval."""
    z, share = 1.959964, successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return {
        "share": round(share, 4),
        "low": round(max(0.0, centre - half), 4),
        "high": round(min(1.0, centre + half), 4),
    }


def clustered(right: np.ndarray, clusters: list[str], draws: int = 2000) -> dict[str, float]:
    """A share with a percentile-bootstrap 95% interval that resamples clusters, not pairs.

    A statement is the chosen one of several pairs, which succeed or fail together: resampling pairs one by one would
    make the interval too narrow.
    """
    _, index = np.unique(clusters, return_inverse=True)
    if right.all() or not right.any():  # every draw is the same then, and would claim certainty
        return wilson(len(set(clusters)) * int(right.all()), len(set(clusters)))
    totals, sums = np.bincount(index), np.bincount(index, weights=right)
    picks = np.random.default_rng(0).integers(len(totals), size=(draws, len(totals)))
    low, high = np.percentile(sums[picks].sum(1) / totals[picks].sum(1), [2.5, 97.5])
    return {"share": round(float(right.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def accuracy(model: Any, tokenizer: PreTrainedTokenizerBase, pairs: list[PreferencePair]) -> dict[str, float]:
    """Share of pairs whose chosen response has the larger reward (summed log-probability) under `model`."""
    rewards = pair_rewards(model, encode_pairs(tokenizer, pairs).pairs, tokenizer.pad_token_id).numpy()
    return clustered(rewards[:, 0] > rewards[:, 1], [pair.chosen for pair in pairs])


def longer_wins(pairs: list[PreferencePair]) -> dict[str, float]:
    """Accuracy of "the longer response, in characters, is the preferred one"; equal lengths left out."""
    pairs = [pair for pair in pairs if len(pair.chosen) != len(pair.rejected)]
    longer = np.array([len(pair.chosen) > len(pair.rejected) for pair in pairs])
    return clustered(longer, [pair.chosen for pair in pairs])


def pair_figures(
    base: Any, arm: Any, tokenizer: PreTrainedTokenizerBase, path: Path, objective: str
) -> dict[str, dict[str, float] | int]:
    """Held-out accuracy of a reward model, by kind of pair too, beside the base alone and the length rule."""
    pairs = read_pairs(path, objective=objective)
    return {
        "test_pairs": len(pairs),
        "accuracy": accuracy(arm, tokenizer, pairs),
        "accuracy_stance": accuracy(arm, tokenizer, read_pairs(path, objective=objective, kind="stance")),
        "accuracy_topic": accuracy(arm, tokenizer, read_pairs(path, objective=objective, kind="topic")),
        "base_alone": accuracy(base, tokenizer, pairs),
        "longer_wins": longer_wins(pairs),
    }


def read_metrics(assets: Path) -> dict[str, Any]:
    path = assets / "metrics.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def write_metrics(assets: Path, metrics: dict[str, Any]) -> None:
    (assets / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
