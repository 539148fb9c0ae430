"""Prompts as callers give them (padded on either side, or lists) and as models take them (stripped, left-padded)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import GenARMError, InvalidArgumentError, PromptError

IdInput = Tensor | Sequence[Tensor] | Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Prompts:
    """A batch of prompts.

    ``columns`` [B, T] int64 is what the output's ``sequences`` start with; ``rows`` holds each prompt without its
    padding, 1-D int64. ``host`` are the rows again, where looking at them waits for no device.
    """

    columns: Tensor
    rows: list[Tensor]
    host: list[Tensor] = field(default_factory=list, repr=False)

    @property
    def lengths(self) -> list[int]:
        return [len(row) for row in self.rows]

    def select(self, index: Sequence[int]) -> Prompts:
        """Some of the rows."""
        columns = self.columns[torch.tensor(index, device=self.columns.device)]
        return Prompts(columns, [self.rows[row] for row in index], [self.host[row] for row in index if self.host])


def read_prompts(
    input_ids: IdInput, attention_mask: Tensor | None, pad_id: int, device: torch.device, what: str = "input_ids"
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
    rows = token_rows(input_ids, what)
    if not rows:
        raise InvalidArgumentError(f"{what} is an empty batch: pass at least one prompt")
    return _on_device(pad_left(rows, pad_id)[0], rows, device)


def token_rows(rows: Sequence[object], what: str) -> list[Tensor]:
    """Each of these as 1-D int64 on the host."""
    return [_row(prompt, index, what) for index, prompt in enumerate(rows)]


def on_host(ids: IdInput) -> IdInput:
    """A tensor of prompts where its values can be looked at again and again without a wait."""
    return ids.cpu() if isinstance(ids, Tensor) and ids.device.type != "meta" else ids


def _on_device(columns: Tensor, rows: list[Tensor], device: torch.device) -> Prompts:
    """Prompts of a host's tensors, in two copies however many rows there are."""
    there = torch.split(torch.cat(rows).to(device), [len(row) for row in rows])
    return Prompts(columns.to(device), list(there), rows)


def pad_left(rows: list[Tensor], pad_id: int) -> tuple[Tensor, Tensor]:
    """B ragged 1-D prompts -> ids [B, T] int64 padded on the left, and their mask [B, T] int64."""
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id, padding_side="left")
    width = ids.shape[1]
    starts = ids.new_tensor([width - len(row) for row in rows])
    return ids, (torch.arange(width, device=ids.device) >= starts[:, None]).long()


def prompt_errors(
    prompts: Prompts, vocab_size: int, max_length: int, max_new_tokens: int, stream: str
) -> dict[int, GenARMError]:
    """What is wrong with which row: an empty prompt, ids outside the vocabulary, no room for the new tokens."""
    errors: dict[int, GenARMError] = {}
    ends = [torch.stack(row.aminmax()) if len(row) else row.new_zeros(2) for row in prompts.host]
    bounds = torch.stack(ends).tolist()
    for index, (row, (least, most)) in enumerate(zip(prompts.host, bounds, strict=True)):
        where = f"row {index}: the {stream} prompt"
        if not len(row):
            errors[index] = PromptError(f"{where} is empty: give it at least one token (a BOS token will do)")
        elif least < 0 or most >= vocab_size:
            worst = least if least < 0 else most
            errors[index] = PromptError(
                f"{where} holds token id {worst}, outside its vocabulary of {vocab_size}: "
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
    columns = input_ids.to("cpu", torch.int64)
    if attention_mask is None:
        return _on_device(columns, list(columns), device)
    if not isinstance(attention_mask, Tensor) or attention_mask.shape != input_ids.shape:
        shape = list(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise InvalidArgumentError(f"attention_mask is {shape}, {what} {list(input_ids.shape)}: give both one shape")
    keep = attention_mask.cpu() != 0
    rows = torch.split(columns[keep], keep.sum(1).tolist())
    return _on_device(columns, list(rows), device)


def _row(prompt: object, index: int, what: str) -> Tensor:
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
    return row.to("cpu", torch.int64)


def _check_ids(ids: Tensor, what: str) -> None:
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise InvalidArgumentError(f"{what} has dtype {ids.dtype}: token ids are integers (int64)")
    if ids.device.type == "meta":
        raise InvalidArgumentError(f"{what} is on the meta device and holds no data: pass real token ids")
