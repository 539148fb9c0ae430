"""Encoded rows to padded batches: preference pairs for reward models, statements for language modelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.activation import Activation
from ..models.asleep import AWAKE_FROM
from .encoding import EncodedPair

IGNORED = -100


def pad(rows: Sequence[Sequence[int]], value: int, multiple_of: int | None = None) -> Tensor:
    """[N, T] int64, right-padded with ``value`` to the longest row, or to the next multiple above it."""
    width = max(len(row) for row in rows)
    if multiple_of is not None:
        width = -(-width // multiple_of) * multiple_of
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.int64)


@dataclass(frozen=True, slots=True)
class PairCollator:
    """B encoded pairs to one batch of 2B sequences: rows 0..B-1 chosen, rows B..2B-1 rejected.

    Returns input_ids, attention_mask and labels, each [2B, T] int64, right-padded to the longest row, or to the next
    multiple of ``pad_to_multiple_of`` tokens. Labels are the response's tokens, and -100 on prompt and padding. For an
    ``activation`` also awake_from [2B] int64: the column from which on an adapter is awake.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None
    activation: Activation | None = None

    def __call__(self, pairs: Sequence[EncodedPair]) -> dict[str, Tensor]:
        prompts = [pair["prompt_ids"] for pair in pairs] * 2
        responses = [pair["chosen_ids"] for pair in pairs] + [pair["rejected_ids"] for pair in pairs]
        both = list(zip(prompts, responses, strict=True))
        found = {
            "input_ids": self._pad([[*prompt, *response] for prompt, response in both], self.pad_token_id),
            "attention_mask": self._pad([[1] * (len(prompt) + len(response)) for prompt, response in both], 0),
            "labels": self._pad([[*[IGNORED] * len(prompt), *response] for prompt, response in both], IGNORED),
        }
        if self.activation is not None:
            starts = [len(prompt) - self.activation.awake(prompt) for prompt in prompts]
            found[AWAKE_FROM] = torch.tensor(starts, dtype=torch.int64)
        return found

    def _pad(self, rows: Sequence[Sequence[int]], value: int) -> Tensor:
        return pad(rows, value, self.pad_to_multiple_of)


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
