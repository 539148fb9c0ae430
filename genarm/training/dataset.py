"""The pairs of a run: read, split, encoded, and what became of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InvalidArgumentError
from ..preferences.encoding import EncodedPair, encode_pairs
from ..preferences.pairs import PreferencePair, read_pairs
from ..preferences.rows import content_hash
from .mixing import check_margins, mixed, names, notes_on_columns, once
from .settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class PairSets:
    """Encoded pairs to train on and to evaluate on; ``facts`` go into the run's record, ``notes`` to the reader."""

    train: list[EncodedPair]
    held_out: list[EncodedPair]
    facts: dict[str, Any]
    notes: list[str]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        both = [*self.train, *self.held_out]
        return max(len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"])) for pair in both)


def load_pairs(settings: TrainingSettings, tokenizer: Any) -> PairSets:
    """Both sets of a run. Without ``eval_data``, a share of the prompts is held out.

    Raises:
        GenARMError: a file that cannot be read as preference pairs, or nothing left to train on.
    """
    pairs = mixed(settings)
    facts: dict[str, Any] = {"data_sha256": content_hash(settings.data)}
    if settings.eval_data is None:
        train, held_out = split(pairs, settings.eval_share)
        held_out = once(held_out)
    else:
        train, held_out = pairs, read_pairs(settings.eval_data, settings.where, settings.reading)
        facts["eval_data_sha256"] = content_hash(settings.eval_data)
    if not train:
        raise InvalidArgumentError(f"{names(settings)}: no pairs are left to train on: lower the share held out")
    notes, encoded = notes_on_columns(settings, train), []
    for name, chosen in (("train", train), ("held out", held_out)):
        result = encode_pairs(tokenizer, chosen, settings.max_length)
        check_margins(settings, result.pairs)
        encoded.append(result.pairs)
        notes += [f"{name}: {note}" for note in result.notes]
        facts[name] = {"pairs": len(result.pairs), **asdict(result.truncation)}
        if any(asdict(result.truncation).values()):
            notes.append(f"{name}: {result.truncation.summary()}")
    if not encoded[0]:
        raise InvalidArgumentError(f"{names(settings)}: no pair is left at max length {settings.max_length}: raise it")
    if not encoded[1] and (settings.eval_data is not None or settings.eval_share):
        notes.append("no pair is held out, and nothing will be measured: raise --eval-share, or name --eval-data")
    return PairSets(encoded[0], encoded[1], facts, notes)


def split(pairs: list[PreferencePair], share: float) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Train and held-out pairs. Pairs with one prompt (without a prompt: one chosen response) stay together, and a
    pair's side depends on that text alone, whatever else the file holds."""
    sides: tuple[list[PreferencePair], list[PreferencePair]] = ([], [])
    for pair in pairs:
        text = json.dumps(pair.prompt or pair.chosen, sort_keys=True)
        place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
        sides[place < share].append(pair)
    return sides
