"""The classifier that says whether a text is about art, and how good it is on statements that it has not seen.

TF-IDF and a logistic regression over the labels of the statements that the embedded models' data come from: it has
never seen a reward, and nothing is decoded by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from experiments.embedded.figures import fit_classifier, labelled
from experiments.embedded.models import OBJECTIVES
from experiments.particles.cells import OBJECTIVE
from genarm.preferences.rows import read_rows
from genarm.preferences.statistics import wilson

SHORT = 8  # words; guided answers are about as short
PERSONA = OBJECTIVES[OBJECTIVE]


def statements(data: Path, split: str) -> Path:
    return data / "persona" / f"statements.{split}.jsonl.gz"


def fit_judge(data: Path) -> Pipeline:
    """Trained on DATA/persona/statements.train.jsonl.gz."""
    return fit_classifier(statements(data, "train"), PERSONA)


def quality(judge: Pipeline, data: Path) -> dict[str, Any]:
    """On DATA/persona/statements.test.jsonl.gz: recall, precision, and how often it is said of other statements.

    All of them with Wilson 95% intervals, on all statements and on the short ones.
    """
    texts, about = labelled(statements(data, "test"), PERSONA)
    said = np.asarray(judge.predict(texts), dtype=bool)
    short = np.array([len(text.split()) <= SHORT for text in texts])
    rows = read_rows(statements(data, "test"))
    against = np.array([row["persona"] == PERSONA and not row["matches"] for row in rows])
    return {
        "all": _figures(about, said, against),
        f"at most {SHORT} words": _figures(about[short], said[short], against[short]),
    }


def _figures(about: Any, said: Any, against: Any) -> dict[str, Any]:
    """What it gets wrong may be on topic nevertheless: it is said of some statements that are against art."""
    return {
        "statements": len(about),
        "about": int(about.sum()),
        "recall": _share(said[about]),
        "precision": _share(about[said]),
        "said of others": _share(said[~about]),
        "said of those against it": _share(said[against]),
    }


def _share(right: Sequence[bool]) -> dict[str, float] | None:
    """None where there is nothing to count."""
    return wilson(int(np.sum(right)), len(right)).as_dict() if len(right) else None
