"""Whether guided text is about its objective, by a text classifier that has never seen a reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from embedded_arms import OBJECTIVES
from embedded_metrics import rounded
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, precision_score, recall_score
from sklearn.pipeline import Pipeline, make_pipeline
from tqdm.auto import tqdm

import genarm
from genarm.evaluation.statistics import wilson
from genarm.preferences.rows import read_rows

WEIGHTS = (0.5, 1.0, 2.0)
BATCH = 50
NEW_TOKENS = 64


def labelled(path: Path, objective: str) -> tuple[list[str], np.ndarray]:
    """Statements, and whether each is one that somebody with this persona would say."""
    rows = read_rows(path)
    about = [row["persona"] == objective and row["matches"] for row in rows]
    return [row["statement"] for row in rows], np.array(about)


def fit_classifier(path: Path, objective: str) -> Pipeline:
    """TF-IDF of words and word pairs into a logistic regression; the rare class weighs as much as the rest."""
    classifier = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegression(class_weight="balanced", C=10.0, max_iter=1000, random_state=0),
    )
    return classifier.fit(*labelled(path, objective))


def classifier_figures(classifier: Pipeline, path: Path, objective: str) -> dict[str, Any]:
    """The classifier's own figures on held-out statements; plain accuracy means little with 1.5% positives."""
    statements, about = labelled(path, objective)
    said = classifier.predict(statements)
    return {
        "statements": len(about),
        "positives": int(about.sum()),
        "accuracy": round(float((said == about).mean()), 4),
        "balanced_accuracy": round(float(balanced_accuracy_score(about, said)), 4),
        "precision": round(float(precision_score(about, said, zero_division=0.0)), 4),
        "recall": round(float(recall_score(about, said)), 4),
    }


def load_decoder(assets: Path) -> genarm.GuidedDecoder:
    return genarm.GuidedDecoder.from_pretrained(
        str(assets / "base"),
        reward_models={name: str(assets / name) for name in OBJECTIVES},
        dtype="float32",
        device="cpu",
        max_batch_size=BATCH,
        max_length=128,
    )


def sample(decoder: Any, weights: dict[str, float], count: int, seed: int, label: str) -> list[list[int]]:
    """`count` token lists from the start of a sequence, at temperature 1 without filters: the distribution itself."""
    tokens: list[list[int]] = []
    every = {name: weights.get(name, 0.0) for name in OBJECTIVES}
    for start in tqdm(range(0, count, BATCH), desc=f"sampling {label}", leave=False):
        rows = min(BATCH, count - start)
        prompts = [[decoder.tokenizer.bos_token_id]] * rows
        out = decoder.generate(prompts, weights=every, max_new_tokens=NEW_TOKENS, seed=seed + start)
        tokens += [row.tolist() for row in out.tokens]
    return tokens


def share(classifier: Pipeline, tokenizer: Any, tokens: list[list[int]]) -> dict[str, Any]:
    """How many texts the classifier gives to the objective, how many differ from one another, how long they are."""
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return {
        **rounded(wilson(int(classifier.predict(texts).sum()), len(texts))),
        "samples": len(texts),
        "distinct": len(set(texts)),
        "mean_tokens": round(float(np.mean([len(row) for row in tokens])), 1),
    }


def classifier_check(assets: Path, persona: Path, tokenizer: Any, count: int, seed: int) -> dict[str, Any]:
    """For each objective: the classifier's own figures, its share of base text and of guided text by weight."""
    decoder = load_decoder(assets)
    plain = sample(decoder, {}, count, seed, "base")
    figures: dict[str, Any] = {}
    for name, objective in OBJECTIVES.items():
        classifier = fit_classifier(persona / "statements.train.jsonl.gz", objective)
        guided = {}
        for weight in WEIGHTS:
            texts = sample(decoder, {name: weight}, count, seed + 1, f"{name} {weight}")
            guided[str(weight)] = share(classifier, tokenizer, texts)
        figures[name] = {
            "classifier": classifier_figures(classifier, persona / "statements.test.jsonl.gz", objective),
            "base": share(classifier, tokenizer, plain),
            "guided": guided,
        }
    return figures
