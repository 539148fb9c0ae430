"""The fused decoder: one read of a model's weights for the base and every LoRA reward model on it.

All streams go through the network as one batch of S·B rows, stream-major: row s·B + b is sequence b as stream s sees
it. A fused linear gives the base's output and every adapter's shrink in one GEMM; the expand is added in the
element-wise step that follows. Ten kernels a layer on a GPU, torch operations in the same order on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from genarm_kernels import add_rms_norm, rotary_store, swiglu
from genarm_kernels.native.linear import rows_linear

from ..causal import CausalModel, inner_model
from . import cpu_step, native
from .attention import AttentionName, decode_attention, prefill_attention
from .families import Parts, rotary_tables
from .linear import Columns
from .prefill import Chunk, chunks, unique_prompts
from .row_loras import NO_LORAS, HeadLora, Segments, expand_segments, head_lora, row_loras, without_head
from .streams import Layers
from .weights import FusedWeights, Tensors, fused_weights

CHUNK_TOKENS = 8192
# layer, query [N, H, D] -> [N, H, D] or [N, 1, H, D]
Attend = Callable[[int, Tensor], Tensor]


class FusedBackbone:
    """A Llama-like model and its LoRA streams. ``layers`` holds each stream's adapter, {} for none."""

    kind = "fused"

    def __init__(
        self,
        model: CausalModel,
        streams: Sequence[int],
        layers: Sequence[Layers],
        attention: AttentionName = "kernel",
    ) -> None:
        self.streams = tuple(streams)
        self._attention = attention
        self.weights: FusedWeights = fused_weights(inner_model(model.module))
        bodies = [without_head(entry) for entry in layers]
        held = iter(self.weights.admit(self, [body for body in bodies if body]))
        self._adapters = [next(held) if body else None for body in bodies]
        self._head_lora = head_lora([entry.get("lm_head") for entry in layers], self.weights.parts.head.weight)

    @property
    def generation(self) -> int:
        """Which layout of the weights a new session reads; one of an older layout keeps that alive, a second copy."""
        return self.weights.generation

    def cache_bytes(self, batch: int, length: int) -> int:
        parts = self.weights.parts
        row = 2 * len(parts.layers) * parts.kv_heads * parts.head_dim * parts.head.weight.element_size()
        return row * length * batch * len(self.streams)

    def session(self, batch: int, length: int, cache: Tensor | None = None) -> FusedSession:
        """``cache``: zeros of at least ``cache_bytes`` bytes, uint8, to be used as the session's; default its own."""
        with torch.inference_mode(False):  # the caller's next step may be outside of the mode this one is in
            tensors = self.weights.tensors([adapter for adapter in self._adapters if adapter])
            places = iter(tensors.adapters)
            adapters = [-1 if adapter is None else next(places) for adapter in self._adapters]
            return FusedSession(
                self.weights.parts, tensors, adapters, self._head_lora, batch, length, cache, self._attention
            )


class FusedSession:
    """S·B rows of one backbone while they decode, in a static cache."""

    def __init__(
        self,
        parts: Parts,
        tensors: Tensors,
        adapters: list[int],
        head_lora: HeadLora | None,
        batch: int,
        length: int,
        cache: Tensor | None = None,
        attention: AttentionName = "kernel",
    ) -> None:
        self.batch = batch
        self._attention = attention
        self.length = length
        self.streams = len(adapters)
        self._parts = parts
        self._tensors = tensors
        self._head_lora = head_lora
        rows, like = self.streams * batch, tensors.head
        shape = (len(tensors.layers), 2, rows, parts.kv_heads, length, parts.head_dim)
        # Zeros: what lies beyond a row's length is multiplied by a weight of zero, which NaN would survive.
        size = prod(shape) * like.element_size()
        if cache is None:
            cache = torch.zeros(size, dtype=torch.uint8, device=like.device)
        # [L, 2, R, T, H_kv, D], and layer by layer its keys and values
        slots = cache[:size].view(like.dtype).view(shape)
        self.cache = slots.transpose(3, 4)
        self._keys_and_values = [(layer[0], layer[1]) for layer in self.cache]
        self.lengths = torch.zeros(rows, dtype=torch.int32, device=like.device)
        self.cos, self.sin = rotary_tables(parts.rotary, length, like.device)
        self._stream_of_row = torch.arange(self.streams, dtype=torch.int32, device=like.device).repeat_interleave(batch)
        self._adapter_of_row = [adapter for adapter in adapters for _ in range(batch)]
        self._head_mask = self._mask_head(self._stream_of_row)
        self._longest, self._even = 0, True
        row_adapters = torch.tensor(self._adapter_of_row, dtype=torch.int32, device=like.device)
        self._cpu = self._cpu_step(row_adapters, slots)
        self._loras = [] if self._cpu else row_loras(tensors.layers, row_adapters)

    def _cpu_step(self, adapters: Tensor, slots: Tensor) -> cpu_step.CPUStep | native.NativeStep | None:
        read = (self._parts, self._tensors, adapters, slots, self.lengths, self.cos, self.sin)
        if native.suits(self._tensors):
            return native.NativeStep(*read)
        return cpu_step.CPUStep(*read) if cpu_step.suits(slots.device) else None

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> list[Tensor]:
        """Append [B] tokens to every stream -> S logits [B, V]."""
        positions = self.lengths.clone()
        self.lengths += 1
        self._longest += 1
        with torch.autocast(tokens.device.type, enabled=False):
            hidden = self._tensors.embedding[tokens].repeat(self.streams, 1)
            if self._cpu is not None:
                hidden = self._cpu(hidden, positions, self._longest, self._even)
            else:
                hidden = self._forward(hidden, positions, None, None, self._attend_one)
            return list(self._logits(hidden, self._head_mask).chunk(self.streams))

    @torch.no_grad()
    def prefill(self, prompts: list[list[Tensor]]) -> list[Tensor]:
        """Read S lists of B prompts; a prompt that several rows of a stream share is read once."""
        unique = unique_prompts(prompts)
        device = self.lengths.device
        with torch.autocast(device.type, enabled=False):
            last = torch.cat([self._read(chunk) for chunk in chunks(unique, CHUNK_TOKENS)])
            slots = torch.tensor(unique.slots, device=device)
            logits = self._logits(last, self._mask_head(self._stream_of_row[slots]))
        lengths = [len(unique.prompts[place]) for place in unique.source]
        self.lengths.copy_(torch.tensor(lengths, dtype=torch.int32))
        self._longest, self._even = max(lengths), min(lengths) == max(lengths)
        if len(unique.prompts) == len(unique.source):
            return list(logits.chunk(self.streams))
        self._share([unique.slots[place] for place in unique.source])
        return list(logits[torch.tensor(unique.source, device=device)].chunk(self.streams))

    def _read(self, chunk: Chunk) -> Tensor:
        """Run some prompts' tokens through the network -> the hidden states of those that end a prompt."""

        def attend(layer: int, query: Tensor) -> Tensor:
            window = self._tensors.layers[layer].window
            return prefill_attention(query, *self._keys_and_values[layer], chunk.spans, self._parts.scale, window)

        segments = list(chunk.segments(self._adapter_of_row))
        hidden = self._tensors.embedding[chunk.ids]
        return self._forward(hidden, chunk.positions, chunk.slots, segments, attend)[chunk.ends]

    def _share(self, sources: list[int]) -> None:
        """Copy prompts to the rows that share them. ``sources`` names the row that read each one's."""
        copies = [row for row, source in enumerate(sources) if row != source]
        device = self.lengths.device
        targets = torch.tensor(copies, device=device)
        origins = torch.tensor([sources[row] for row in copies], device=device)
        for layer in self.cache:  # what is on its way takes memory beside the cache: not all layers at once
            live = layer[:, :, : self._longest]
            live[:, targets] = live[:, origins]

    def _attend_one(self, layer: int, query: Tensor) -> Tensor:
        """[R, H, D], one new token a row, over everything cached."""
        return decode_attention(
            query[:, None],
            *self._keys_and_values[layer],
            self.lengths,
            self._parts.scale,
            self._tensors.layers[layer].window,
            self._attention,
        )

    def _forward(
        self, residual: Tensor, positions: Tensor, slots: Tensor | None, segments: Segments | None, attend: Attend
    ) -> Tensor:
        """Every layer over [N, H] tokens at ``positions`` of cache rows ``slots`` -> final hidden states [N, H].

        ``segments`` says which of many tokens have which adapter, whose expands are then products of their own; without
        it the tokens are the session's rows, one each. ``residual`` is written over.
        """
        eps, z, before = self._parts.eps, None, None
        for index, layer in enumerate(self._tensors.layers):
            lora = self._loras[index] if segments is None else NO_LORAS
            x = add_rms_norm(z, residual, layer.attention_norm, eps, before)
            query = rotary_store(
                linear(x, layer.qkv, segments),
                self.cos,
                self.sin,
                positions,
                *self._keys_and_values[index],
                self._parts.heads,
                lora.qkv,
                slots,
                layer.q_norm,
                layer.k_norm,
                eps,
            )
            z = linear(attend(index, query).flatten(1), layer.out, segments)
            x = add_rms_norm(z, residual, layer.mlp_norm, eps, lora.out)
            x = swiglu(linear(x, layer.gate_up, segments), lora.gate_up)
            z = linear(x, layer.down, segments)
            before = lora.down
        return add_rms_norm(z, residual, self._tensors.norm, eps, before)

    def _logits(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """[N, H] -> [N, V]; ``mask`` says which of the head's adapters each row has."""
        logits = rows_linear(hidden, self._tensors.head, self._tensors.head_bias)
        return logits if self._head_lora is None or mask is None else self._head_lora.add_to(logits, hidden, mask)

    def _mask_head(self, streams: Tensor) -> Tensor | None:
        """For rows of these streams, [N] int32."""
        return None if self._head_lora is None else self._head_lora.mask(streams)


def linear(x: Tensor, columns: Columns, segments: Segments | None) -> Tensor:
    """[N, in] -> [N, out + shrinks], or [N, out] with the expands of ``segments`` added."""
    z = rows_linear(x, columns.weight, columns.bias)
    return z if segments is None else expand_segments(z, columns.lora, segments)
