"""Texts of every base under every reward model that is no larger, and what is measured on each of them.

Row i of a seed draws with the same noise under every base, reward model and weight, so texts are compared in pairs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sklearn.pipeline import Pipeline
from transformers import AutoTokenizer

from experiments.embedded.figures import fit_classifier
from experiments.weak_to_strong.models import PERSONA, SIZES, Place, load_judge
from genarm import GuidedDecoder
from genarm.embedded import BASE
from genarm.preferences.encoding import EncodedPair
from genarm.preferences.scoring import sequence_scores

WEIGHTS = (0.25, 0.5, 1.0, 2.0)
NEW_TOKENS = 64
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unit:
    """What is decoded in one go and kept in one file: one base, one reward model or none, one seed, all weights."""

    base: str
    reward: str | None
    seed: int

    @property
    def file(self) -> str:
        return f"{self.base}-{self.reward or 'alone'}-{self.seed}.json"

    @property
    def weights(self) -> tuple[float, ...]:
        return (0.0,) if self.reward is None else WEIGHTS


def units(seeds: Sequence[int]) -> Iterator[Unit]:
    """Bases from small to large, each alone and under the reward models up to its own size."""
    for place, base in enumerate(SIZES):
        for reward in (None, *list(SIZES)[: place + 1]):
            yield from (Unit(base, reward, seed) for seed in seeds)


def load_decoder(place: Place, base: str, reward: str | None, batch: int = 64) -> GuidedDecoder:
    """A base with a reward model of any size, which stands on its own base."""
    return GuidedDecoder.from_pretrained(
        str(place.base(base)),
        None if reward is None else {reward: str(place.reward_model(reward))},
        reward_bases=None if reward in (None, base) else {reward: str(place.base(reward))},
        dtype="float32",
        device="cpu",
        max_batch_size=batch,
        max_length=128,
    )


def decode(decoder: GuidedDecoder, weights: Sequence[float], count: int, seed: int) -> list[Row]:
    """``count`` texts per weight from the start of a sequence, at temperature 1 without filters.

    Per text: its tokens, whether it ended with EOS, −log π_base and log p(drawn) − log π_base summed over its tokens.
    """
    rows: list[Row] = []
    prompts = [[decoder.tokenizer.bos_token_id]] * count
    for weight in weights:
        every = dict.fromkeys(decoder.reward_names, weight)
        out = decoder.generate(prompts, weights=every, max_new_tokens=NEW_TOKENS, seed=seed, return_logprobs=True)
        assert out.logprobs is not None and out.model_logprobs is not None and out.texts is not None
        base = out.model_logprobs[..., 0].double()
        columns = {
            "tokens": [tokens.tolist() for tokens in out.tokens],
            "text": out.texts,
            "ended": [reason == "eos" for reason in out.finish_reasons],
            "base_nll": (-base.nansum(1)).tolist(),
            "kl": (out.logprobs.double() - base).nansum(1).tolist(),
        }
        found = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        rows += [{"weight": weight, **row} for row in found]
    return rows


class Judges:
    """What texts are measured by, none of it decoded from: a classifier of words and a trajectory RM."""

    def __init__(self, place: Place, judge: Path) -> None:
        self.classifier: Pipeline = fit_classifier(place.data / "persona" / "statements.train.jsonl.gz", PERSONA)
        self.tokenizer = AutoTokenizer.from_pretrained(BASE)
        self.judge = load_judge(judge, self.tokenizer.pad_token_id)

    def add(self, rows: list[Row]) -> None:
        """Into every row: ``about`` (0 or 1) and ``judged`` (the trajectory RM's score)."""
        about = self.classifier.predict([row["text"] for row in rows])
        for row, said, score in zip(rows, about, self.scores([row["tokens"] for row in rows]), strict=True):
            row.update(about=int(said), judged=round(score, 4))

    def scores(self, tokens: list[list[int]]) -> list[float]:
        """The trajectory RM's scores. It takes two texts at a time, as if they were to be compared."""
        pad = self.tokenizer.pad_token_id
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))  # like lengths share a pair
        ids = [tokens[row] for row in order] + [tokens[order[-1]]] * (len(order) % 2)
        pairs = [
            EncodedPair(prompt_ids=[self.tokenizer.bos_token_id], chosen_ids=one, rejected_ids=other)
            for one, other in zip(ids[::2], ids[1::2], strict=True)
        ]
        found = dict(zip(order, sequence_scores(self.judge, pairs, pad).flatten().tolist(), strict=False))
        return [found[row] for row in range(len(tokens))]


def make_texts(place: Place, judge: Path, count: int, seeds: Sequence[int]) -> None:
    """Every unit that OUT does not hold yet."""
    folder = place.out / "texts"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [unit for unit in units(seeds) if not (folder / unit.file).is_file()]
    if not missing:
        return
    judges = Judges(place, judge)
    for unit in missing:
        rows = decode(load_decoder(place, unit.base, unit.reward), unit.weights, count, unit.seed)
        judges.add(rows)
        begun = folder / f".{unit.file}"
        begun.write_text(json.dumps(rows), encoding="utf-8")
        begun.rename(folder / unit.file)
        print(f"{unit.base} base, reward model: {unit.reward or 'none'}, seed {unit.seed}", flush=True)


def read_texts(place: Place, seeds: Sequence[int]) -> dict[tuple[str, str | None], list[Row]]:
    """All rows of each base and reward model, seed after seed."""
    found: dict[tuple[str, str | None], list[Row]] = {}
    for unit in units(seeds):
        rows = json.loads((place.out / "texts" / unit.file).read_text(encoding="utf-8"))
        found.setdefault((unit.base, unit.reward), []).extend(rows)
    return found
