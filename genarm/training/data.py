"""Rows on disk to padded batches: statements for language modelling, preference pairs for reward models.

A sequence is `<s> prompt response </s>`. Labels are -100 on everything that is not response, so that the sums of
`genarm.training.arm` run over response tokens and the end-of-sequence token, and over nothing else.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

IGNORED = -100

EncodedPair = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two responses to one prompt, of which `chosen` was preferred."""

    prompt: str
    chosen: str
    rejected: str


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The JSON objects of a JSON-lines file, plain or gzip (by the file's ending); empty lines are skipped."""
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    rows: list[dict[str, Any]] = []
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
    return rows


def read_pairs(path: str | Path, **wanted: str) -> list[PreferencePair]:
    """Preference pairs from a JSON-lines file with `chosen`, `rejected` and, where there is one, `prompt`.

    `wanted` keeps only the rows whose other columns have these values: read_pairs(path, objective="agreeableness").
    """
    rows = [row for row in read_rows(path) if all(row.get(column) == value for column, value in wanted.items())]
    missing = sorted({column for row in rows for column in ("chosen", "rejected") if column not in row})
    if missing:
        raise ValueError(f"{path}: rows without {', '.join(missing)}; a pair needs chosen and rejected")
    return [PreferencePair(row.get("prompt", ""), row["chosen"], row["rejected"]) for row in rows]


def encode_response(
    tokenizer: PreTrainedTokenizerBase, prompt: str, response: str, max_length: int | None = None
) -> tuple[list[int], int]:
    """Token ids of `<s> prompt response </s>` and how many of them are prompt.

    Prompt and response are tokenised apart, so the boundary between them is exact. What goes over `max_length` is cut
    from the front of the prompt: the response and its end are what a preference is about.
    """
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    before = start + tokenizer(prompt, add_special_tokens=False)["input_ids"]
    after = tokenizer(response, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    if max_length is not None and len(before) + len(after) > max_length:
        if len(after) + len(start) > max_length:
            raise ValueError(f"a response of {len(after)} tokens does not fit max_length {max_length}")
        before = start + before[len(before) + len(after) - max_length + len(start) :]
    return before + after, len(before)


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Iterable[PreferencePair], max_length: int | None = None
) -> list[EncodedPair]:
    """Each pair as {chosen_ids, chosen_labels, rejected_ids, rejected_labels}, unpadded lists of int."""
    encoded = []
    for pair in pairs:
        item: EncodedPair = {}
        for side, response in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            ids, prompt_length = encode_response(tokenizer, pair.prompt, response, max_length)
            item[f"{side}_ids"] = ids
            item[f"{side}_labels"] = [IGNORED] * prompt_length + ids[prompt_length:]
        encoded.append(item)
    return encoded


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """[N, T] int64, right-padded with `value` to the longest row."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.int64)


@dataclass(frozen=True, slots=True)
class PairCollator:
    """B encoded pairs to one batch of 2B sequences: rows 0..B-1 chosen, rows B..2B-1 rejected.

    Returns input_ids, attention_mask and labels, each [2B, T] int64, right-padded to the longest row.
    """

    pad_token_id: int

    def __call__(self, pairs: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
        ids = [pair["chosen_ids"] for pair in pairs] + [pair["rejected_ids"] for pair in pairs]
        labels = [pair["chosen_labels"] for pair in pairs] + [pair["rejected_labels"] for pair in pairs]
        return {
            "input_ids": pad(ids, self.pad_token_id),
            "attention_mask": pad([[1] * len(row) for row in ids], 0),
            "labels": pad(labels, IGNORED),
        }


@dataclass(frozen=True, slots=True)
class StatementCollator:
    """B token lists under `input_ids` to input_ids, attention_mask, labels, each [B, T] int64; no label on padding."""

    pad_token_id: int

    def __call__(self, items: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
        ids = [item["input_ids"] for item in items]
        return {
            "input_ids": pad(ids, self.pad_token_id),
            "attention_mask": pad([[1] * len(row) for row in ids], 0),
            "labels": pad(ids, IGNORED),
        }
