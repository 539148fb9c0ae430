"""Prompts to draw answers for: rows with a prompt, or preference pairs, whose prompts are read and no more."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ..errors import GenARMError, InvalidArgumentError
from ..models.sources import fingerprint
from ..preferences.chat import turn_ends
from ..preferences.encoding import Encoder
from ..preferences.pair import PreferencePair, pair_of
from ..preferences.pairs import kept_rows, read_pairs
from ..preferences.rows import content_hash
from .defaults import share_held_out
from .mixing import names
from .settings import TrainingSettings

# A row of prompts alone is read as a pair's would be, templates and system messages included.
BLANK = {"chosen": "+", "rejected": "-"}


@dataclass(frozen=True, slots=True)
class PromptSets:
    """Prompts to train on and to measure on, each as often as answers are drawn for it."""

    train: list[list[int]]
    held_out: list[list[int]]
    facts: dict[str, Any]
    notes: list[str]


def load_prompts(settings: TrainingSettings, tokenizer: Any) -> PromptSets:
    """Both sets of a run. Without ``eval_data``, a share of the prompts is held out: `share_held_out`.

    Raises:
        GenARMError: a file without prompts, or nothing left to train on.
    """
    train = _read(settings, settings.data, settings.limit)
    held_out = [] if settings.eval_data is None else _read(settings, settings.eval_data, None)
    facts: dict[str, Any] = {
        "data_sha256": content_hash(settings.data),
        "trajectory_rm_fingerprint": fingerprint(str(settings.trajectory_rm)),
    }
    if settings.eval_data is None:
        share = share_held_out(settings, len(train))
        facts["eval_share"] = round(share, 6)
        held_out = [pair for pair in train if _place(pair) < share]
        train = [pair for pair in train if _place(pair) >= share]
    else:
        facts["eval_data_sha256"] = content_hash(settings.eval_data)
    notes: list[str] = []
    sets = {name: _encoded(settings, tokenizer, own, name, notes) for name, own in
            (("train", train), ("held out", held_out))}  # fmt: skip
    for name, own in sets.items():
        facts[name] = {"prompts": len(own), "answers": len(own) * settings.samples}
    if not sets["train"]:
        raise InvalidArgumentError(f"{names(settings)}: no prompts are left to train on: lower the share held out")
    if not sets["held out"]:
        notes.append("no prompt is held out, and nothing will be measured: raise --eval-share, or name --eval-data")
    train_ids, held_ids = ([ids for ids in own for _ in range(settings.samples)] for own in sets.values())
    return PromptSets(train_ids, held_ids, facts, notes)


def _read(settings: TrainingSettings, data: str | tuple[str, ...], limit: int | None) -> list[PreferencePair]:
    """The rows of all data sets, one of those with the same prompt."""
    found: dict[str, PreferencePair] = {}
    for path in [data] if isinstance(data, str) else data:
        for pair in _of_one(settings, path)[:limit]:
            found.setdefault(json.dumps([pair.prompt, pair.options], sort_keys=True, default=str), pair)
    return list(found.values())


def _of_one(settings: TrainingSettings, path: str) -> list[PreferencePair]:
    reading, column = settings.reading, settings.reading.columns.get("prompt", "prompt")
    rows = kept_rows(path, settings.where)
    if reading.prompt_template is None and not any(row.get(column) for _, row in rows):
        return read_pairs(path, settings.where, reading)  # whose sides hold the prompt
    found = []
    for number, row in rows:
        try:
            found.append(pair_of({**row, **BLANK}, reading)[0])
        except GenARMError as error:
            if not reading.skip_bad_rows:
                raise InvalidArgumentError(f"{path}, row {number}: {error}") from None
    return found


def _place(pair: PreferencePair) -> float:
    """From 0 to 1, by a hash of the prompt alone, so that its side does not depend on what else the file holds."""
    text = json.dumps(pair.prompt, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _encoded(
    settings: TrainingSettings, tokenizer: Any, pairs: list[PreferencePair], name: str, notes: list[str]
) -> list[list[int]]:
    """Ids of the prompts that leave room for an answer."""
    encoder, room = Encoder(tokenizer, turn_ends(tokenizer)), settings.max_length - settings.new_tokens
    found = [encoder.pair(pair)["prompt_ids"] for pair in pairs]
    kept = [ids for ids in found if len(ids) <= room]
    if len(kept) < len(found):
        notes.append(f"{name}: {len(found) - len(kept)} prompts of more than {room} tokens are left out")
    return kept
