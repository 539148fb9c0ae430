"""The fused decoder: one read of a model's weights for the base and every LoRA reward model on it.

All streams go through the network as one batch of S·B rows, stream-major: row s·B + b is sequence b as stream s sees
it. A fused linear gives the base's output and every adapter's shrink in one GEMM; the expand is added in the
element-wise step that follows. Ten kernels a layer on a GPU, torch operations in the same order on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import genarm_kernels
from genarm_kernels import add_rms_norm, rotary_store, skinny_linear, swiglu
from genarm_kernels.lora import Lora, expand

from .attention import prefill_attention
from .causal import CausalModel, inner_model
from .families import rotary_tables
from .fused_linear import Columns
from .fused_weights import FusedWeights, fused_weights
from .packing import Chunk, chunks, unique_prompts
from .stream_adapter import Layers

CHUNK_TOKENS = 8192
# layer, query [N, H, D] -> [N, H, D] or [N, 1, H, D]
Attend = Callable[[int, Tensor], Tensor]


class RowLoras(NamedTuple):
    """One layer's expands for the rows of a pass."""

    qkv: Lora | None
    out: Lora | None
    gate_up: Lora | None
    down: Lora | None


class FusedBackbone:
    """A Llama-like model and its LoRA streams. ``layers`` holds each stream's adapter, {} for none."""

    kind = "fused"

    def __init__(self, model: CausalModel, streams: Sequence[int], layers: Sequence[Layers]) -> None:
        self.streams = tuple(streams)
        self.weights: FusedWeights = fused_weights(inner_model(model.module))
        self._layers = [_without_head(entry) for entry in layers]
        self._head = [entry.get("lm_head") for entry in layers]
        self.weights.admit(self, [entry for entry in self._layers if entry])
        self._generation = -1
        self._bind()

    def _bind(self) -> None:
        """Take the weights as they are laid out now."""
        self.weights.refresh()
        if self._generation == self.weights.generation:
            return
        self._generation = self.weights.generation
        self.adapters = [self.weights.index(entry) if entry else -1 for entry in self._layers]
        self.columns = self.weights.columns(max(self.adapters) + 1)
        self.head_lora = _head_lora(self._head, self.weights.parts.head.weight)

    def cache_bytes(self, batch: int, length: int) -> int:
        parts = self.weights.parts
        row = 2 * len(parts.layers) * parts.kv_heads * parts.head_dim * parts.head.weight.element_size()
        return row * length * batch * len(self.streams)

    def session(self, batch: int, length: int, cache: Tensor | None = None) -> FusedSession:
        """``cache``: zeros of at least ``cache_bytes`` bytes, uint8, to be used as the session's; default its own."""
        self._bind()
        return FusedSession(self, batch, length, cache)

    @property
    def generation(self) -> int:
        """Which layout of the weights sessions read; a session of an older one should not be kept."""
        self._bind()
        return self._generation


class FusedSession:
    """S·B rows of one backbone while they decode, in a static cache."""

    def __init__(self, backbone: FusedBackbone, batch: int, length: int, cache: Tensor | None = None) -> None:
        self.batch = batch
        self.length = length
        self.streams = len(backbone.streams)
        self.parts = backbone.weights.parts
        self.columns = backbone.columns
        self._head_lora = backbone.head_lora
        rows, like = self.streams * batch, self.parts.head.weight
        shape = (len(self.columns), 2, rows, self.parts.kv_heads, length, self.parts.head_dim)
        # Zeros: what lies beyond a row's length is multiplied by a weight of zero, which NaN would survive.
        size = backbone.cache_bytes(batch, length)
        if cache is None:
            cache = torch.zeros(size, dtype=torch.uint8, device=like.device)
        self.cache = cache[:size].view(like.dtype).view(shape).transpose(3, 4)
        self.lengths = torch.zeros(rows, dtype=torch.int32, device=like.device)
        self.cos, self.sin = rotary_tables(self.parts.rotary, length, like.device)
        self._stream_of_row = torch.arange(self.streams, dtype=torch.int32, device=like.device).repeat_interleave(batch)
        self._adapter_of_stream = torch.tensor(backbone.adapters, dtype=torch.int32, device=like.device)
        self._loras = self._row_loras(self._adapter_of_stream[self._stream_of_row])
        self._longest, self._even = 0, True

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> list[Tensor]:
        """Append [B] tokens to every stream -> S logits [B, V]."""
        positions = self.lengths.clone()
        self.lengths += 1
        self._longest += 1
        hidden = self.parts.embedding.weight[tokens].repeat(self.streams, 1)
        hidden = self._forward(hidden, positions, None, self._loras, self._attend_one)
        return list(self._logits(hidden, self._stream_of_row).chunk(self.streams))

    @torch.no_grad()
    def prefill(self, prompts: list[list[Tensor]]) -> list[Tensor]:
        """Read S lists of B prompts; a prompt that several rows of a stream share is read once."""
        unique = unique_prompts(prompts)
        device = self.lengths.device
        slots = torch.tensor(unique.slots, device=device)
        last = torch.cat([self._read(chunk) for chunk in chunks(unique, CHUNK_TOKENS)])
        logits = self._logits(last, self._stream_of_row[slots])
        lengths = [len(unique.prompts[place]) for place in unique.source]
        self.lengths.copy_(torch.tensor(lengths, dtype=torch.int32))
        self._longest, self._even = max(lengths), min(lengths) == max(lengths)
        if len(unique.prompts) == len(unique.source):
            return list(logits.chunk(self.streams))
        source = torch.tensor(unique.source, device=device)
        self._share(slots[source])
        return list(logits[source].chunk(self.streams))

    def _read(self, chunk: Chunk) -> Tensor:
        """Run some prompts' tokens through the network -> the hidden states of those that end a prompt."""

        def attend(layer: int, query: Tensor) -> Tensor:
            keys, values, window = self.cache[layer, 0], self.cache[layer, 1], self.columns[layer].parts.window
            return prefill_attention(query, keys, values, chunk.spans, self.parts.scale, window)

        loras = self._row_loras(self._adapter_of_stream[self._stream_of_row[chunk.slots]])
        hidden = self.parts.embedding.weight[chunk.ids]
        return self._forward(hidden, chunk.positions, chunk.slots, loras, attend)[chunk.ends]

    def _share(self, sources: Tensor) -> None:
        """Copy prompts to the rows that share them. ``sources`` [S·B] is the row that read each one's."""
        copies = (sources != torch.arange(len(sources), device=sources.device)).nonzero()[:, 0]
        self.cache[:, :, copies, : self._longest] = self.cache[:, :, sources[copies], : self._longest]

    def _attend_one(self, layer: int, query: Tensor) -> Tensor:
        """[R, H, D], one new token a row, over everything cached."""
        return genarm_kernels.decode_attention(
            query[:, None],
            self.cache[layer, 0],
            self.cache[layer, 1],
            self.lengths,
            self.parts.scale,
            self.columns[layer].parts.window,
            longest=self._longest,
            even=self._even,
        )

    def _forward(
        self, residual: Tensor, positions: Tensor, slots: Tensor | None, loras: list[RowLoras], attend: Attend
    ) -> Tensor:
        """Every layer over [N, H] tokens at ``positions`` of cache rows ``slots`` -> final hidden states [N, H].

        ``residual`` is written over.
        """
        parts, z, before = self.parts, None, None
        for index, (layer, lora) in enumerate(zip(self.columns, loras, strict=True)):
            x = add_rms_norm(z, residual, layer.parts.attention_norm.weight, parts.eps, before)
            z = linear(x, layer.qkv)
            query = rotary_store(
                z,
                self.cos,
                self.sin,
                positions,
                self.cache[index, 0],
                self.cache[index, 1],
                parts.heads,
                lora.qkv,
                slots,
                layer.parts.q_norm and layer.parts.q_norm.weight,
                layer.parts.k_norm and layer.parts.k_norm.weight,
                parts.eps,
            )
            z = linear(attend(index, query).flatten(1), layer.out)
            x = add_rms_norm(z, residual, layer.parts.mlp_norm.weight, parts.eps, lora.out)
            x = swiglu(linear(x, layer.gate_up), lora.gate_up)
            z = linear(x, layer.down)
            before = lora.down
        return add_rms_norm(z, residual, parts.norm.weight, parts.eps, before)

    def _logits(self, hidden: Tensor, streams: Tensor) -> Tensor:
        """[N, H] -> [N, V]; ``streams`` [N] int32 says whose LoRA on the head a row has."""
        logits = skinny_linear(hidden, self.parts.head.weight, self.parts.head.bias)
        if self._head_lora is None:
            return logits
        down, lora = self._head_lora
        return expand(torch.cat([logits, F.linear(hidden, down)], dim=1), replace(lora, adapters=streams))

    def _row_loras(self, adapters: Tensor) -> list[RowLoras]:
        """Every layer's expands for rows with these adapters."""
        masks: dict[int, Tensor] = {}
        return [
            RowLoras(*(_on(columns.lora, adapters, masks) for columns in (one.qkv, one.out, one.gate_up, one.down)))
            for one in self.columns
        ]


def targets(model: nn.Module) -> set[str]:
    """The names of the linear layers that may carry LoRA."""
    return {"lm_head", *(path for layer in fused_weights(model).parts.layers for path in layer.paths.values())}


def linear(x: Tensor, columns: Columns) -> Tensor:
    """[N, in] -> [N, out + shrinks]."""
    return skinny_linear(x, columns.weight, columns.bias)


def _on(lora: Lora | None, adapters: Tensor, masks: dict[int, Tensor]) -> Lora | None:
    """The expand for rows with these adapters; what does not depend on the rows, or not on the layer, is shared."""
    if lora is None:
        return None
    own = replace(lora, adapters=adapters)
    if not adapters.is_cuda:
        own.__dict__["dense"] = lora.dense
        own.__dict__["mask"] = masks.setdefault(lora.shrinks, own.mask)
    return own


def _without_head(layers: Layers) -> Layers:
    return {name: pair for name, pair in layers.items() if name != "lm_head"}


def _head_lora(pairs: Sequence[tuple[Tensor, Tensor] | None], head: Tensor) -> tuple[Tensor, Lora] | None:
    """LoRA on the LM head, which may be the embedding too and so stays as it is: A [S·rank, H], and the expand."""
    rank = max((len(pair[0]) for pair in pairs if pair), default=0)
    if not rank:
        return None
    down = head.new_zeros(len(pairs), rank, head.shape[1])
    up = head.new_zeros(len(pairs), head.shape[0], rank)
    for index, pair in enumerate(pairs):
        if pair is not None:
            down[index, : len(pair[0])] = pair[0]
            up[index, :, : len(pair[0])] = pair[1]
    return down.flatten(0, 1), Lora(up, torch.empty(0), (head.shape[0],))
