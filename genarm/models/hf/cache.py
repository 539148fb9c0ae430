"""Keys and values of a batch in buffers that stay where they are, under the interface of transformers' caches.

Row b's token at position t lies at [b, :, t] of each layer's buffers [batch, H_kv, length, D]. There is no padding:
a row's own length says what is alive. Transformers' Cache classes moved from release to release, so this is none of
them; models ask a cache for ``update`` and ``get_seq_length``, and one that asks for more does not take part.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..backbone import copied_rows, origins
from ..causal import CausalModel, inner_model
from ..placement import execution_device


def cache_places(model: CausalModel, batch: int, length: int) -> dict[torch.device, int]:
    """Bytes of a session's keys and values by the devices where its layers' passes run."""
    config, token = model.config, 2 * batch * length * model.dtype.itemsize
    alike = not getattr(config, "is_heterogeneous", False)
    layers = [config] * config.num_hidden_layers if alike else config.per_layer_config
    places: dict[torch.device, int] = {}
    for device, layer in zip(_layer_devices(model, len(layers)), layers, strict=True):
        places[device] = places.get(device, 0) + token * _cache_width(layer)
    return places


def _layer_devices(model: CausalModel, count: int) -> list[torch.device]:
    """Where each layer's pass runs and its keys lie: models may be spread over several devices."""
    inner: Any = inner_model(model.module)
    decoder = getattr(inner, "get_decoder", lambda: None)() or inner
    lists = (part for part in decoder.modules() if isinstance(part, nn.ModuleList) and len(part) == count)
    found = [execution_device(layer) for layer in next(lists, ())] or [model.device] * count
    return [model.device if device.type == "meta" else device for device in found]


def _cache_width(config: Any) -> int:
    """Elements of a token's keys in one layer."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(heads * width)


class DoesNotTakePart(AttributeError):
    """The model does something with its cache or its attention that a static cache does not answer."""


@dataclass(slots=True)
class PassSpan:
    """What one forward pass writes and reads: positions ``start`` to ``stop`` of some rows, or Q new tokens per row.

    ``rows`` [n] int64 are the rows. New tokens have ``positions`` [n, Q] int64, each row's own, and ``lengths`` [n]
    int32, them included; the host knows that positions are at least ``start`` and less than ``stop``. A
    prompt's later part (start > 0) is a single row's, ``row``. What layers stored and attended is noted by their
    numbers.
    """

    rows: Tensor
    start: int
    stop: int
    positions: Tensor | None = None
    lengths: Tensor | None = None
    row: int = 0
    stored: set[int] = field(default_factory=set)
    attended: set[int | None] = field(default_factory=set)
    masks: dict[int | None, Tensor] = field(default_factory=dict)  # by sliding window


class SlotCache:
    """``batch`` slots of ``length`` tokens. A layer's buffers are allocated when it is first seen, and only then."""

    is_compileable = False

    def __init__(self, batch: int, length: int) -> None:
        self.batch = batch
        self.length = length
        self.span: PassSpan | None = None
        self.buffers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store what the pass adds, [n, H_kv, T, D] -> all that its rows hold, [n, H_kv, stop, D]."""
        span = self._current()
        span.stored.add(layer)
        buffers = self._allocated(layer, keys, values)
        if span.positions is not None:
            for buffer, new in zip(buffers, (keys, values), strict=True):
                _store(buffer, span.rows, span.positions, new)
            key, value = (buffer[: len(keys), :, : span.stop] for buffer in buffers)
            return key, value
        for buffer, new in zip(buffers, (keys, values), strict=True):
            buffer[:, :, span.start : span.stop].index_copy_(0, span.rows, new.to(buffer.dtype))
        if span.start == 0:
            return keys, values
        key, value = (buffer[span.row : span.row + 1, :, : span.stop] for buffer in buffers)
        return key, value

    def get_seq_length(self, *_args: Any, **_kwargs: Any) -> int:
        return self._current().start

    def copy(self, sources: Tensor, targets: Tensor, tokens: int) -> None:
        """Give rows ``targets`` [n] the first ``tokens`` positions of rows ``sources`` [n]."""
        origin = origins(sources, targets, self.batch)
        for buffer in (buffer for pair in self.buffers.values() for buffer in pair):
            copied_rows(buffer[:, :, :tokens], 0, origin)

    def cut(self, lengths: Tensor, longest: int, shortest: int = 0) -> None:
        """Zero what lies behind each row's length, [batch], up to ``longest``; none is under ``shortest``."""
        behind = torch.arange(shortest, longest, device=lengths.device) >= lengths[:, None]
        for pair in self.buffers.values():
            for buffer in pair:
                buffer[:, :, shortest:longest].masked_fill_(behind[:, None, :, None], 0)

    def clear(self, tokens: int) -> None:
        """Zero the first ``tokens`` positions: masked positions are read with weight 0, and 0 · NaN is NaN."""
        for pair in self.buffers.values():
            for buffer in pair:
                buffer[:, :, :tokens].zero_()

    def _current(self) -> PassSpan:
        if self.span is None:
            raise RuntimeError("a session's cache was used outside of the session's own forward passes")
        return self.span

    def _allocated(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if layer not in self.buffers:
            self.buffers[layer] = self._slots(keys), self._slots(values)
        return self.buffers[layer]

    def _slots(self, like: Tensor) -> Tensor:
        with torch.inference_mode(False):  # the caller's next step may be outside of the mode this one is in
            shape = self.batch, like.shape[1], self.length, like.shape[3]
            return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def __getattr__(self, name: str) -> NoReturn:
        raise DoesNotTakePart(f"the model asks its cache for {name!r}")

    def __getitem__(self, layer: object) -> NoReturn:
        raise DoesNotTakePart("the model takes tensors out of its cache")

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> NoReturn:
        raise DoesNotTakePart("the model counts its cache's layers")


def _store(buffer: Tensor, rows: Tensor, positions: Tensor, new: Tensor) -> None:
    """Put new tokens [n, H_kv, Q, D] at ``positions`` [n, Q] of ``rows``, which are the first n."""
    if not torch.are_deterministic_algorithms_enabled():
        buffer[rows[:, None], :, positions] = new.transpose(1, 2).to(buffer.dtype)
        return
    # That would look at the positions then, which a captured step does not allow: a pass over the whole buffer instead.
    live = buffer[: len(rows)]
    places = torch.arange(buffer.shape[2], device=buffer.device)
    for token in range(new.shape[2]):
        now = (places == positions[:, token, None])[:, None, :, None]
        torch.where(now, new[:, :, token, None].to(buffer.dtype), live, out=live)
