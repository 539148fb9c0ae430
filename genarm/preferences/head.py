"""log π(y_t | x, y_<t) of labelled tokens under a transformers model, without the [N, T, V] logits.

The model's forward pass runs with its LM head taken out; the hidden states of the labelled positions alone go through
`genarm_kernels.token_logprobs`. Models whose forward does more to logits than the head (a softcap, a scale, an adapter
on the head) are found out on their first batch and keep their own forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import genarm_kernels

from .collate import IGNORED

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
