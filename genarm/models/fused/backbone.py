"""One set of weights that the fused decoder reads for the base and every LoRA reward model on it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ..backbone import RowPreferences
from ..causal import CausalModel, inner_model
from ..footprint import fused_pass_bytes
from ..turns import alone_with
from .attention import AttentionName
from .native import steps_in_c
from .prefixes import Room, room_for, room_that_pays
from .row_loras import head_lora
from .session import CHUNK_TOKENS, FusedSession
from .shared import SharedSession
from .slots import PreferenceSlots, RowSlots
from .streams import StreamLora, stream_lora, tuner_layers
from .weights import FusedWeights, Tensors, fused_weights
from .whole import WholePromptSession


class FusedBackbone:
    """A Llama-like model and its LoRA streams. ``loras`` holds each stream's adapter.

    Rows of a stream that is conditioned on preferences have an adapter each, from ``slots``."""

    kind = "fused"
    mixes_preferences = True

    def __init__(
        self,
        models: Sequence[CausalModel],
        streams: Sequence[int],
        loras: Sequence[StreamLora],
        attention: AttentionName = "kernel",
    ) -> None:
        self.streams = tuple(streams)
        self.attention = attention
        self.weights: FusedWeights = fused_weights(inner_model(models[0].module))
        self.head_lora = head_lora([lora.head for lora in loras], self.weights.parts.head.weight.data)
        self._models, self._loras = list(models), list(loras)
        self.activations = tuple(model.activation for model in models)
        self.slots = PreferenceSlots(models)
        self.tensors()

    def tensors(self) -> Tensors:
        """What a pass reads now, adapters that live in the module as they are at this moment."""
        module = inner_model(self._models[0].module)
        with alone_with([module]):
            layers = list(tuner_layers(module)) if any(lora.live for lora in self._loras) else []
            for place, (model, lora) in enumerate(zip(self._models, self._loras, strict=True)):
                found = stream_lora(model, layers) if lora.live else None
                if found is not None:
                    self._loras[place] = found
                    if self.head_lora is not None and found.head is not None:
                        self.head_lora.write(place, found.head)
            return self.weights.tensors(self, [lora.body for lora in self._loras] + self.slots.loras())

    def given(self, preferences: RowPreferences) -> AbstractContextManager[RowSlots]:
        own = {place: preferences[stream] for place, stream in enumerate(self.streams) if stream in preferences}
        return self.slots.held(own)

    @property
    def shares(self) -> bool:
        """Whether prompts are held once for all rows that begin with them: where an adapter sleeps on them."""
        return any(activation is not None for activation in self.activations)

    @property
    def vocab_size(self) -> int:
        return len(self.weights.parts.head.weight)

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.parts.head.weight.dtype

    def room(
        self, prompts: Sequence[Sequence[Tensor]], slots: int, behind: int, preferences: RowPreferences
    ) -> Room | None:
        """What a session takes for S lists of B prompts, on the host, in so many ``slots`` at a time, with up to
        ``behind`` tokens after each. None where each row holds its own prompt."""
        ordinary = {
            place: preferences.get(stream, [()] * len(prompts[place]))
            for place, stream in enumerate(self.streams)
            if self.activations[place] is None and (self._loras[place].body.pairs or stream in preferences)
        }
        if self.shares:
            return room_for(prompts, self.activations, ordinary, slots, behind)
        if not steps_in_c(self.dtype, self.weights.parts.head.weight.device):
            return None  # where attention to shared prompts is not to the bit that to copies
        return room_that_pays(prompts, ordinary, slots, behind)

    def cache_bytes(self, batch: int, length: int, room: Room | None = None) -> int:
        parts, rows = self.weights.parts, batch * len(self.streams)
        token = 2 * len(parts.layers) * parts.kv_heads * parts.head_dim * self.dtype.itemsize
        room = room or self._most_room(batch, length)
        return token * (rows * length if room is None else room.prefixes * room.prompt + rows * room.own)

    def cache_places(self, batch: int, length: int, room: Room | None = None) -> dict[torch.device, int]:
        return {self.weights.parts.head.weight.device: self.cache_bytes(batch, length, room)}

    def _most_room(self, batch: int, length: int) -> Room | None:
        """For any prompts at all; None where none is held for several rows."""
        return Room(batch * len(self.streams), length, length) if self.shares else None

    def prompt_bytes(self, batch: int, length: int) -> int:
        return self._pass_bytes(min(CHUNK_TOKENS, batch * length * len(self.streams)))

    def step_bytes(self, batch: int) -> int:
        return self._pass_bytes(batch * len(self.streams))

    def _pass_bytes(self, tokens: int) -> int:
        parts, size = self.weights.parts, self.dtype.itemsize
        widths = self.weights.gate_up_width(), parts.layers[0].linears["down_proj"].in_features
        return fused_pass_bytes(tokens, parts.head.in_features, parts.heads * parts.head_dim, *widths, size)

    def session(
        self,
        batch: int,
        length: int,
        given: RowSlots | None = None,
        cache: Tensor | None = None,
        tensors: Tensors | None = None,
        room: Room | None = None,
    ) -> FusedSession:
        """``cache``: zeros of at least ``cache_bytes`` bytes, uint8, to be used as the session's; default its own.
        ``room``: for its prompts, by default for any."""
        tensors, room = tensors or self.tensors(), room or self._most_room(batch, length)
        with torch.inference_mode(False):  # the caller's next step may be outside of the mode this one is in
            if room is not None:
                kind = SharedSession if self.shares else WholePromptSession
                return kind(self, tensors, batch, length, room, cache, given)
            return FusedSession(self, tensors, batch, length, cache, given)
