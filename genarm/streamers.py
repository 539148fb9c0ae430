"""Hugging Face's streamers: objects with put() and end() that are fed token ids while a batch is decoded."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch

from .engine.batch import Batch
from .errors import InvalidArgumentError
from .request.options import Request


def feed(streamer: Any, batch: Batch, request: Request, most: int) -> None:
    """Decode to the end, and tell ``streamer`` of the prompts and of every token as ``generate`` of transformers does.

    ``most``: rows of a chunk; a streamer takes one. Where drafts give rows several tokens in a step, each is told by
    itself, as soon as every row that goes on has one, so that a streamer sees what it would without speculation.
    """
    if not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise InvalidArgumentError(
            f"streamer is a {type(streamer).__name__}: pass an object with put() and end(), such as a TextStreamer"
        )
    if request.batch > most:
        raise InvalidArgumentError(
            f"a streamer takes one chunk: raise max_batch_size from {most} to {request.batch}, or use stream()"
        )
    streamer.put(request.streams[0].columns.cpu())
    try:
        waiting: list[deque[int]] = [deque() for _ in range(request.batch)]
        for step in batch.steps():
            for row, tokens in zip(waiting, step.tokens, strict=True):
                row.extend(tokens.tolist())
            done = step.finished.tolist()
            while any(waiting) and all(row or ended for row, ended in zip(waiting, done, strict=True)):
                streamer.put(torch.tensor([row.popleft() if row else request.pad_id for row in waiting]))
    finally:  # whoever reads the stream in another thread waits for its end
        streamer.end()
