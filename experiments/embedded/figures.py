"""Figures of the embedded models: pair accuracies, and the share of guided text that is about its objective.

The share is judged by a text classifier that has never seen a reward.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, precision_score, recall_score
from sklearn.pipeline import Pipeline, make_pipeline
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

import genarm
from experiments.embedded.models import OBJECTIVES, beginning_as_prompt
from genarm.models.asleep import SleepingAdapter
from genarm.preferences.encoding import encode_pairs
from genarm.preferences.pairs import PreferencePair, read_pairs
from genarm.preferences.rows import read_rows
from genarm.preferences.scoring import pair_rewards
from genarm.preferences.statistics import Estimate, paired_difference, share, wilson

WEIGHTS = (0.5, 1.0, 2.0)
BATCH = 50
NEW_TOKENS = 64


def rounded(found: Estimate) -> dict[str, float]:
    """A share and its 95% interval as they are kept."""
    return {"share": round(found.value, 4), "low": round(found.low, 4), "high": round(found.high, 4)}


def ordered_right(
    model: Any, tokenizer: PreTrainedTokenizerBase, pairs: list[PreferencePair], asleep: SleepingAdapter | None = None
) -> NDArray[np.bool_]:
    """[N] whether the chosen response has the larger reward (summed log-probability) under `model`, whose adapter may
    sleep on what both responses begin with."""
    encoded = encode_pairs(tokenizer, pairs).pairs
    if asleep is not None:
        encoded = [beginning_as_prompt(pair) for pair in encoded]
    rewards = pair_rewards(model, encoded, tokenizer.pad_token_id, asleep=asleep).numpy()
    return np.asarray(rewards[:, 0] > rewards[:, 1])


def accuracy(
    model: Any, tokenizer: PreTrainedTokenizerBase, pairs: list[PreferencePair], asleep: SleepingAdapter | None = None
) -> dict[str, float]:
    """The share of pairs that are ordered right.

    A statement is the chosen one of several pairs, which succeed or fail together, so statements are resampled.
    """
    return rounded(share(ordered_right(model, tokenizer, pairs, asleep), [pair.chosen for pair in pairs]))


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


def activated_figures(
    ordinary: Any,
    activated: Any,
    asleep: SleepingAdapter,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    objective: str,
) -> dict[str, Any]:
    """Held-out accuracy of an activated reward model, by kind of pair too, and by how much it is above that of the
    ordinary one on the same pairs."""
    pairs = read_pairs(path, objective=objective)
    parts = {kind: read_pairs(path, objective=objective, kind=kind) for kind in ("stance", "topic")}
    right = [ordered_right(ordinary, tokenizer, pairs), ordered_right(activated, tokenizer, pairs, asleep)]
    encoded = [beginning_as_prompt(pair) for pair in encode_pairs(tokenizer, pairs).pairs]
    return {
        "test_pairs": len(pairs),
        "longer_prompts": sum(len(pair["prompt_ids"]) > 1 for pair in encoded),
        "accuracy": rounded(share(right[1], [pair.chosen for pair in pairs])),
        **{f"accuracy_{kind}": accuracy(activated, tokenizer, own, asleep) for kind, own in parts.items()},
        "difference": rounded(paired_difference(right[1], right[0], [pair.chosen for pair in pairs])),
    }


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


def text_figures(classifier: Pipeline, tokenizer: Any, tokens: list[list[int]]) -> dict[str, Any]:
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
            guided[str(weight)] = text_figures(classifier, tokenizer, texts)
        figures[name] = {
            "classifier": classifier_figures(classifier, persona / "statements.test.jsonl.gz", objective),
            "base": text_figures(classifier, tokenizer, plain),
            "guided": guided,
        }
    return figures
