"""Rewards of preference pairs: by an AR-RM, token by token or summed, and by a trajectory RM.

log π(y_t | x, y_<t) of labelled tokens comes from the last hidden states by `genarm_kernels.token_logprobs`: without
[N, T, V] logits. Models whose forward does more to logits than the head are read by their logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import genarm_kernels

from ..models.asleep import SleepingAdapter
from .collate import IGNORED, PairCollator
from .encoding import EncodedPair

Batch = dict[str, Tensor]


def pair_rewards(
    model: Any,
    pairs: Sequence[EncodedPair],
    pad_token_id: int,
    batch_size: int = 64,
    progress: bool = False,
    asleep: SleepingAdapter | None = None,
) -> Tensor:
    """Σ_t log π_r(y_t | x, y_<t) of each response, EOS included: [N, 2] float64 on the CPU, chosen and rejected.

    The summed reward of an autoregressive reward model (GenARM, Xu et al., ICLR 2025). Similar lengths share a batch,
    so that little is spent on padding; rows come back in the order given. Whatever mode the model was in, it is scored
    in eval mode and left as it was. ``asleep``: the model's adapter, where that sleeps on prompts.
    """

    def score(batch: Batch) -> Tensor:
        return response_log_probs(model, batch).double().sum(1)

    return _by_pair(model, pairs, pad_token_id, batch_size, progress, score, asleep)


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
    model: Any,
    pairs: Sequence[EncodedPair],
    pad_token_id: int,
    batch_size: int = 64,
    progress: bool = False,
    asleep: SleepingAdapter | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """log π_r(y_t | x, y_<t) of every response token: per pair two float32 CPU tensors, [n_chosen] and [n_rejected]."""
    found: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(pairs)
    for rows, batch in _batches(model, pairs, pad_token_id, batch_size, progress, asleep):
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
    asleep: SleepingAdapter | None = None,
) -> Tensor:
    rewards = torch.empty(len(pairs), 2, dtype=torch.float64)
    for rows, batch in _batches(model, pairs, pad_token_id, batch_size, progress, asleep):
        rewards[rows] = score(batch).view(2, -1).T.cpu()
    return rewards


def _batches(
    model: Any,
    pairs: Sequence[EncodedPair],
    pad_token_id: int,
    batch_size: int,
    progress: bool,
    asleep: SleepingAdapter | None,
) -> Iterator[tuple[list[int], Batch]]:
    """Indices of a batch's pairs, and the batch on the model's device; the model is in eval mode meanwhile."""
    order = sorted(range(len(pairs)), key=lambda row: _tokens(pairs[row]))
    collate = PairCollator(pad_token_id, activation=None if asleep is None else asleep.activation)
    with _evaluating(model):
        starts = range(0, len(order), batch_size)
        for start in track(starts, "scoring pairs", console=Console(stderr=True), disable=not progress, transient=True):
            rows = order[start : start + batch_size]
            batch = {name: held.to(model.device) for name, held in collate([pairs[row] for row in rows]).items()}
            if asleep is not None:
                asleep.read(batch)
            yield rows, batch


def _tokens(pair: EncodedPair) -> int:
    return len(pair["prompt_ids"]) + len(pair["chosen_ids"]) + len(pair["rejected_ids"])


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


# Whether a head's model returns what the head gives, and nothing more; by head.
_plain: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def response_log_probs(model: Any, batch: Mapping[str, Tensor], inner: Any = None) -> Tensor:
    """log π of every labelled token of a batch: [N, T] float32 (float64 for a float64 model), 0 elsewhere.

    Args:
        model: a causal LM, called as it is, so that what wraps it (PEFT, DistributedDataParallel) takes part.
        batch: input_ids, attention_mask and labels, each [N, T] int64; labels are -100 on what is not response.
        inner: the causal LM itself where ``model`` wraps it in what does not pass attributes on.

    Column t holds token t + 1, whose log-probability position t gives; the last column is 0. Differentiable.
    """
    targets = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    places = (targets != IGNORED).flatten().nonzero().squeeze(1)
    tokens = targets.flatten()[places]
    log_probs = _head_route(model, model if inner is None else inner, batch, places, tokens)
    if log_probs is None:
        logits = _forward(model, batch).flatten(0, 1).index_select(0, places)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        log_probs = -F.cross_entropy(wide, tokens, reduction="none")
    return log_probs.new_zeros(targets.numel()).index_copy(0, places, log_probs).view_as(targets)


def _head_route(model: Any, inner: Any, batch: Mapping[str, Tensor], places: Tensor, tokens: Tensor) -> Tensor | None:
    """Log-probs of ``tokens`` at the flat positions ``places`` of [N, T]; None where the head cannot be taken out."""
    head = inner.get_output_embeddings()
    if type(head) is not nn.Linear or "forward" in vars(head) or not _plain.get(head, True):
        return None
    with _taken_out(head) as seen:
        output = _forward(model, batch)
    if len(seen) != 1 or seen[0].shape[:2] != batch["labels"].shape:
        _plain[head] = False
        return None
    hidden = seen[0]
    if head not in _plain:
        _plain[head] = output.shape == hidden.shape and torch.equal(output.to(hidden.dtype), hidden)
        if not _plain[head]:
            return None
    rows = hidden.flatten(0, 1).index_select(0, places)
    return genarm_kernels.token_logprobs(rows, head.weight, tokens, head.bias)


@contextmanager
def _taken_out(head: nn.Module) -> Iterator[list[Tensor]]:
    """The head hands its input on; what it was given is in the list."""
    seen: list[Tensor] = []

    def forward(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden

    head.forward = forward
    try:
        yield seen
    finally:
        del head.forward


def _forward(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    output: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    return output
