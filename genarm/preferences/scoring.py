"""Rewards of preference pairs: by an AR-RM, token by token or summed, and by a trajectory RM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from .collate import IGNORED, PairCollator
from .encoding import EncodedPair
from .head import response_log_probs

Batch = dict[str, Tensor]


def pair_rewards(
    model: Any, pairs: Sequence[EncodedPair], pad_token_id: int, batch_size: int = 64, progress: bool = False
) -> Tensor:
    """Σ_t log π_r(y_t | x, y_<t) of each response, EOS included: [N, 2] float64 on the CPU, chosen and rejected.

    The summed reward of an autoregressive reward model (GenARM, Xu et al., ICLR 2025). Similar lengths share a batch,
    so that little is spent on padding; rows come back in the order given. Whatever mode the model was in, it is scored
    in eval mode and left as it was.
    """

    def score(batch: Batch) -> Tensor:
        return response_log_probs(model, batch).double().sum(1)

    return _by_pair(model, pairs, pad_token_id, batch_size, progress, score)


def sequence_scores(
    model: Any, pairs: Sequence[EncodedPair], pad_token_id: int, batch_size: int = 64, progress: bool = False
) -> Tensor:
    """r(x, y) of a trajectory RM, a sequence-classification model of one label: [N, 2] float64, chosen and rejected."""

    def score(batch: Batch) -> Tensor:
        logits: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return logits.squeeze(-1).double()

    return _by_pair(model, pairs, pad_token_id, batch_size, progress, score)


@torch.no_grad()
def token_rewards(
    model: Any, pairs: Sequence[EncodedPair], pad_token_id: int, batch_size: int = 64, progress: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """log π_r(y_t | x, y_<t) of every response token: a pair of float32 CPU tensors [n_chosen], [n_rejected] a row."""
    found: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(pairs)
    for rows, batch in _batches(model, pairs, pad_token_id, batch_size, progress):
        log_probs = response_log_probs(model, batch)[:, :-1].float().cpu()
        labelled = (batch["labels"][:, 1:] != IGNORED).cpu()
        responses = [values[own] for values, own in zip(log_probs, labelled, strict=True)]
        for place, row in enumerate(rows):
            found[row] = (responses[place], responses[len(rows) + place])
    return found


@torch.no_grad()
def _by_pair(
    model: Any,
    pairs: Sequence[EncodedPair],
    pad_token_id: int,
    batch_size: int,
    progress: bool,
    score: Callable[[Batch], Tensor],
) -> Tensor:
    rewards = torch.empty(len(pairs), 2, dtype=torch.float64)
    for rows, batch in _batches(model, pairs, pad_token_id, batch_size, progress):
        rewards[rows] = score(batch).view(2, -1).T.cpu()
    return rewards


def _batches(
    model: Any, pairs: Sequence[EncodedPair], pad_token_id: int, batch_size: int, progress: bool
) -> Iterator[tuple[list[int], Batch]]:
    """Indices of a batch's pairs, and the batch on the model's device; the model is in eval mode meanwhile."""
    order = sorted(range(len(pairs)), key=lambda row: sum(len(ids) for ids in pairs[row].values()))  # type: ignore[arg-type, misc]
    collate = PairCollator(pad_token_id)
    with _evaluating(model):
        starts = range(0, len(order), batch_size)
        for start in track(starts, "scoring pairs", console=Console(stderr=True), disable=not progress, transient=True):
            rows = order[start : start + batch_size]
            yield rows, {name: held.to(model.device) for name, held in collate([pairs[row] for row in rows]).items()}


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
