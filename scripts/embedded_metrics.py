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

from genarm.evaluation.statistics import Estimate, share
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


def rounded(found: Estimate) -> dict[str, float]:
    """A share and its 95% interval as they are kept."""
    return {"share": round(found.value, 4), "low": round(found.low, 4), "high": round(found.high, 4)}


def accuracy(model: Any, tokenizer: PreTrainedTokenizerBase, pairs: list[PreferencePair]) -> dict[str, float]:
    """Share of pairs whose chosen response has the larger reward (summed log-probability) under `model`.

    A statement is the chosen one of several pairs, which succeed or fail together, so statements are resampled.
    """
    rewards = pair_rewards(model, encode_pairs(tokenizer, pairs).pairs, tokenizer.pad_token_id).numpy()
    return rounded(share(rewards[:, 0] > rewards[:, 1], [pair.chosen for pair in pairs]))


def longer_wins(pairs: list[PreferencePair]) -> dict[str, float]:
    """Accuracy of "the longer response, in characters, is the preferred one"; equal lengths left out."""
    pairs = [pair for pair in pairs if len(pair.chosen) != len(pair.rejected)]
    longer = np.array([len(pair.chosen) > len(pair.rejected) for pair in pairs])
    return rounded(share(longer, [pair.chosen for pair in pairs]))


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
