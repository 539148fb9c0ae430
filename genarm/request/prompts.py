"""Prompts as callers give them (padded on either side, or lists) and as models take them (stripped, left-padded)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import GenARMError, InvalidArgumentError, PromptError

PromptInput = Tensor | Sequence[Tensor] | Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Prompts:
    """A batch of prompts.

    ``columns`` [B, T] int64 is what the output's ``sequences`` start with; ``rows`` holds each prompt without its
    padding, 1-D int64.
    """

    columns: Tensor
    rows: list[Tensor]

    @property
    def lengths(self) -> list[int]:
        return [len(row) for row in self.rows]

    def select(self, index: Sequence[int]) -> Prompts:
        """Some of the rows."""
        return Prompts(self.columns[torch.tensor(index, device=self.columns.device)], [self.rows[row] for row in index])


def read_prompts(
    input_ids: PromptInput, attention_mask: Tensor | None, pad_id: int, device: torch.device, what: str = "input_ids"
) -> Prompts:
    """Strip the padding of ``input_ids``: [B, T] with an optional mask [B, T], or a list of B ragged prompts."""
    if isinstance(input_ids, Tensor):
        return _from_tensor(input_ids, attention_mask, device, what)
    if attention_mask is not None:
        raise InvalidArgumentError(
            f"attention_mask came with a list of prompts: pass {what} as a [B, T] tensor, or no mask"
        )
    if not isinstance(input_ids, Sequence) or isinstance(input_ids, str | bytes):
        raise InvalidArgumentError(f"{what} is a {type(input_ids).__name__}: pass token ids, a [B, T] tensor or a list")
    rows = [_row(prompt, index, device, what) for index, prompt in enumerate(input_ids)]
    if not rows:
        raise InvalidArgumentError(f"{what} is an empty batch: pass at least one prompt")
    return Prompts(pad_left(rows, pad_id)[0], rows)


def pad_left(rows: list[Tensor], pad_id: int) -> tuple[Tensor, Tensor]:
    """B ragged 1-D prompts -> ids [B, T] int64 padded on the left, and their mask [B, T] int64."""
    width = max(len(row) for row in rows)
    ids = rows[0].new_full((len(rows), width), pad_id)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        if len(row):
            ids[index, width - len(row) :] = row
            mask[index, width - len(row) :] = 1
    return ids, mask


def prompt_errors(
    prompts: Prompts, vocab_size: int, max_length: int, max_new_tokens: int, stream: str
) -> dict[int, GenARMError]:
    """What is wrong with which row: an empty prompt, ids outside the vocabulary, no room for the new tokens."""
    errors: dict[int, GenARMError] = {}
    for index, row in enumerate(prompts.rows):
        where = f"row {index}: the {stream} prompt"
        if not len(row):
            errors[index] = PromptError(f"{where} is empty: give it at least one token (a BOS token will do)")
        elif int(row.min()) < 0 or int(row.max()) >= vocab_size:
            worst = int(row.min()) if int(row.min()) < 0 else int(row.max())
            errors[index] = PromptError(
                f"{where} holds token id {worst}, outside the shared vocabulary of {vocab_size}: "
                "encode it with the base model's tokenizer"
            )
        elif len(row) + max_new_tokens > max_length:
            errors[index] = PromptError(
                f"{where} has {len(row)} tokens, with {max_new_tokens} new ones over max_length = {max_length}: "
                "shorten it, lower max_new_tokens, or raise max_length as far as the models' positions go"
            )
    return errors


def _from_tensor(input_ids: Tensor, attention_mask: Tensor | None, device: torch.device, what: str) -> Prompts:
    _check_ids(input_ids, what)
    if input_ids.dim() != 2:
        raise InvalidArgumentError(
            f"{what} has shape {list(input_ids.shape)}: pass [B, T] (one prompt: unsqueeze(0)), or a list of prompts"
        )
    if not len(input_ids):
        raise InvalidArgumentError(f"{what} is an empty batch: pass at least one prompt")
    columns = input_ids.to(device, torch.int64)
    if attention_mask is None:
        return Prompts(columns, list(columns))
    if not isinstance(attention_mask, Tensor) or attention_mask.shape != input_ids.shape:
        shape = list(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise InvalidArgumentError(f"attention_mask is {shape}, {what} {list(input_ids.shape)}: give both one shape")
    keep = attention_mask.to(device) != 0
    return Prompts(columns, [row[mask] for row, mask in zip(columns, keep, strict=True)])


def _row(prompt: object, index: int, device: torch.device, what: str) -> Tensor:
    if isinstance(prompt, int):
        raise InvalidArgumentError(f"{what} is a flat list of ids: wrap one prompt as [[...]]")
    try:
        row = torch.as_tensor(prompt)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgumentError(f"{what}[{index}] is not a list of token ids ({error}): pass integers") from None
    if not isinstance(prompt, Tensor) and not row.numel():
        row = row.long()  # an empty list has no dtype of its own
    _check_ids(row, f"{what}[{index}]")
    if row.dim() != 1:
        raise InvalidArgumentError(f"{what}[{index}] has shape {list(row.shape)}: each prompt of a list is 1-D")
    return row.to(device, torch.int64)


def _check_ids(ids: Tensor, what: str) -> None:
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise InvalidArgumentError(f"{what} has dtype {ids.dtype}: token ids are integers (int64)")
    if ids.device.type == "meta":
        raise InvalidArgumentError(f"{what} is on the meta device and holds no data: pass real token ids")
