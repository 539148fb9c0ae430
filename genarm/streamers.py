"""Hugging Face's streamers: objects with put() and end() that are fed token ids while a batch is decoded."""

from __future__ import annotations

from typing import Any

import torch

from .engine.batch import Batch
from .errors import InvalidArgumentError
from .request.options import Request


def feed(streamer: Any, batch: Batch, request: Request, most: int) -> None:
    """Decode to the end, and tell ``streamer`` of the prompts and of every token as ``generate`` of transformers does.

    ``most``: rows of a chunk; a streamer takes one.
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
        for step in batch.steps():
            tokens = [int(row[0]) if len(row) else request.pad_id for row in step.tokens]
            if any(len(row) for row in step.tokens):
                streamer.put(torch.tensor(tokens))
    finally:  # whoever reads the stream in another thread waits for its end
        streamer.end()
