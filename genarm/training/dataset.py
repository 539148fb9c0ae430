"""The pairs of a run: read, split, encoded, and what became of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InvalidArgumentError
from ..models.activation import Activation
from ..preferences.encoding import EncodedPair, encode_pairs
from ..preferences.pairs import PreferencePair, read_pairs
from ..preferences.rows import content_hash
from .defaults import share_held_out
from .mixing import check_margins, mixed, names, notes_on_columns, once
from .settings import TrainingSettings
from .waking import activation_of


@dataclass(frozen=True, slots=True)
class PairSets:
    """Encoded pairs to train on and to evaluate on; ``facts`` go into the run's record, ``notes`` to the reader.

    ``clusters`` has a text per held-out pair, equal where pairs are right and wrong together: the prompt, or without
    one the chosen response. ``activation``: from where on their prompts wake the adapter; None for an ordinary one.
    """

    train: list[EncodedPair]
    held_out: list[EncodedPair]
    clusters: list[str]
    facts: dict[str, Any]
    notes: list[str]
    activation: Activation | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        both = [*self.train, *self.held_out]
        return max(len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"])) for pair in both)


def load_pairs(settings: TrainingSettings, tokenizer: Any) -> PairSets:
    """Both sets of a run. Without ``eval_data``, a share of the prompts is held out: `share_held_out`.

    Raises:
        GenARMError: a file that cannot be read as preference pairs, or nothing left to train on.
    """
    sets = mixed(settings)
    pairs = [pair for own in sets for pair in own]
    objective = _by_objective(settings, sets)
    facts: dict[str, Any] = {"data_sha256": content_hash(settings.data)}
    share = 0.0 if settings.eval_data else share_held_out(settings, len(pairs))
    train, held_out = split(pairs, share)
    held_out = once(held_out)
    if settings.eval_data is not None:
        paths = settings.eval_data if settings.objectives else [settings.eval_data]
        held_sets = [read_pairs(path, settings.where, settings.reading) for path in paths]
        held_out = [pair for own in held_sets for pair in own]
        objective |= _by_objective(settings, held_sets)
        facts["eval_data_sha256"] = content_hash(settings.eval_data)
    else:
        facts["eval_share"] = round(share, 6)
    if not train:
        raise InvalidArgumentError(f"{names(settings)}: no pairs are left to train on: lower the share held out")
    notes, encoded = notes_on_columns(settings, train), []
    for name, chosen in (("train", train), ("held out", held_out)):
        result = encode_pairs(tokenizer, chosen, settings.max_length)
        check_margins(settings, result.pairs)
        for pair, place in zip(result.pairs, result.kept, strict=True):
            if settings.objectives:
                pair["objective"] = objective[id(chosen[place])]
        encoded.append(result)
        notes += [f"{name}: {note}" for note in result.notes]
        facts[name] = {"pairs": len(result.pairs), **asdict(result.truncation)}
        if any(asdict(result.truncation).values()):
            notes.append(f"{name}: {result.truncation.summary()}")
    ours, theirs = (result.pairs for result in encoded)
    if not ours:
        raise InvalidArgumentError(f"{names(settings)}: no pair is left at max length {settings.max_length}: raise it")
    if not theirs and (settings.eval_data is not None or share):
        notes.append("no pair is held out, and nothing will be measured: raise --eval-share, or name --eval-data")
    facts["held out"]["trained_on"] = _in_both(ours, theirs)
    clusters = [common_text(held_out[row]) for row in encoded[1].kept]
    activation = None
    if settings.activate is not None:
        activation, note = activation_of(settings, tokenizer, [pair["prompt_ids"] for pair in (*ours, *theirs)])
        notes.append(note)
        facts["awake_from"] = list(activation.tokens) or "the prompt's last token"
    return PairSets(ours, theirs, clusters, facts, notes, activation)


def _by_objective(settings: TrainingSettings, sets: Sequence[Sequence[PreferencePair]]) -> dict[int, int]:
    """The objective of each pair, by its id: the place of its data set."""
    return {id(pair): place for place, own in enumerate(sets) for pair in own} if settings.objectives else {}


def _in_both(train: list[EncodedPair], held_out: list[EncodedPair]) -> int:
    """How many of the held-out pairs are trained on as well, either way round."""

    def key(pair: EncodedPair) -> tuple[int | None, tuple[int, ...], frozenset[tuple[int, ...]]]:
        responses = frozenset((tuple(pair["chosen_ids"]), tuple(pair["rejected_ids"])))
        return pair.get("objective"), tuple(pair["prompt_ids"]), responses

    seen = {key(pair) for pair in train} if held_out else set()
    return sum(key(pair) in seen for pair in held_out)


def common_text(pair: PreferencePair) -> str:
    """What a pair shares with those that it is held out and resampled with."""
    return json.dumps(pair.prompt or pair.chosen, sort_keys=True)


def split(pairs: list[PreferencePair], share: float) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Train and held-out pairs. Pairs with one prompt (without a prompt: one chosen response) stay together, and a
    pair's side depends on that text alone, whatever else the file holds."""
    sides: tuple[list[PreferencePair], list[PreferencePair]] = ([], [])
    for pair in pairs:
        place = int.from_bytes(hashlib.sha256(common_text(pair).encode()).digest()[:8], "big") / 2**64
        sides[place < share].append(pair)
    return sides
