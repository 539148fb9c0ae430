"""Any causal language model of Hugging Face transformers, through its own forward pass on a static key-value cache.

Row b's tokens stand at positions 0 … n − 1 of slot b, without padding. The model's attention is a function of ours
(attention.py) that reads each row's own length, so nothing but the new keys and values moves from step to step, no
step waits for the device, and every buffer stays where it is. Models whose attention or cache is of another kind are
padded on the left and run on transformers' own cache (padded.py): ``kind`` says "hf-padded" then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as every_module

from ...errors import InvalidArgumentError
from ..backbone import RowPreferences, Rows, checked_lengths, checked_rows, copied_rows, follow_by_copy, origins
from ..causal import CausalModel, inner_model
from ..footprint import mask_bytes, module_pass_bytes
from ..fused.prefill import distinct
from .attention import attending, attention_configs
from .cache import DoesNotTakePart, PassSpan, SlotCache, cache_places
from .forward import Forward, at_each_rows, in_passes, is_compiled
from .lengthwise import Frequencies, LengthwiseSession
from .padded import PaddedSession
from .waking import Waking

LAYER_TYPES = {"full_attention", "sliding_attention"}
OWN_HOOKS = __name__.rpartition(".hf.")[0]
CHUNK = 8192  # tokens of prompts in one forward pass


class HFBackbone:
    """One model as transformers runs it: a single stream, with its adapter applied by hooks."""

    def __init__(self, model: CausalModel, stream: int) -> None:
        self.model = model
        self.streams = (stream,)
        self.static = may_take_part(model)
        self._frequencies = Frequencies(model.config)
        self._padded = not self.static or has_hooks(model.module)  # the last session was

    @property
    def kind(self) -> str:
        """ "hf" on a static cache, "hf-padded" on transformers' own."""
        return "hf" if self.static and not self._padded else "hf-padded"

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def cache_bytes(self, batch: int, length: int) -> int:
        return sum(self.cache_places(batch, length).values())

    def cache_places(self, batch: int, length: int) -> dict[torch.device, int]:
        return cache_places(self.model, batch, length)

    def prompt_bytes(self, batch: int, length: int) -> int:
        """A padded batch is read at once, under a mask, and a model that cannot be told which logits are wanted makes
        them all."""
        size, tokens = self.dtype.itemsize, batch * length
        if not self._pads(length):
            return module_pass_bytes(min(CHUNK, tokens), self.model.config, size)
        every = 0 if "logits_to_keep" in self.model.accepts else tokens * self.vocab_size * size
        return module_pass_bytes(tokens, self.model.config, size) + mask_bytes(batch, length, size) + every

    def step_bytes(self, batch: int) -> int:
        return module_pass_bytes(batch, self.model.config, self.dtype.itemsize)

    def _pads(self, length: int) -> bool:
        """Hooks of others may know the batch's rows and positions: they see what they would in transformers' own
        ``generate``."""
        constant = not self._frequencies or length <= self._frequencies.constant_below
        return not (self.static and constant) or has_hooks(self.model.module)

    @property
    def mixes_preferences(self) -> bool:
        """Hooks know nothing of rows, so that all have one adapter."""
        return not self.model.is_conditioned

    @contextmanager
    def given(self, preferences: RowPreferences) -> Iterator[CausalModel]:
        rows = set(preferences.get(self.streams[0], ()))
        if len(rows) > 1:
            raise InvalidArgumentError(f"{self.model.name} runs through transformers, with one preference at a time")
        yield self.model.given(*rows) if rows else self.model

    def session(
        self, batch: int, length: int, given: CausalModel | None = None
    ) -> HFSession | PaddedSession | LengthwiseSession:
        if given is not None and given is not self.model:
            other = copy(self)
            other.model = given
            return other.session(batch, length)
        self._padded = self._pads(length)
        return self.padded(batch, length) if self._padded else HFSession(self, batch, length)

    def padded(self, batch: int, length: int) -> PaddedSession | LengthwiseSession:
        if not self._frequencies:
            return PaddedSession(self.model, batch, length)
        whole = has_hooks(self.model.module)
        return LengthwiseSession(self.model, batch, length, self._frequencies, whole)


def may_take_part(model: CausalModel) -> bool:
    """Whether the model calls attention by name, on positions it is given. What it then asks of its attention and its
    cache shows in its first forward pass."""
    inner: Any = inner_model(model.module)
    return (
        bool(getattr(inner, "_supports_attention_backend", False))
        and "position_ids" in model.accepts
        and set(getattr(model.config, "layer_types", None) or ()) <= LAYER_TYPES
        and len(set((getattr(inner, "hf_device_map", None) or {}).values())) < 2
        and not is_compiled(model.module)
    )


def has_hooks(module: Any) -> bool:
    """Whether somebody else's code runs before or after the forward pass of some part. Adapters' hooks of this library
    are there inside a forward pass only, perhaps one of another thread."""
    every = [every_module._global_forward_hooks, every_module._global_forward_pre_hooks]
    own = [hooks for part in module.modules() for hooks in (part._forward_hooks, part._forward_pre_hooks) if hooks]
    return any(
        not str(getattr(hook, "__module__", "")).startswith(OWN_HOOKS)
        for hooks in (*every, *own)
        for hook in list(hooks.values())
    )


class HFSession:
    """Rows of one model while they decode."""

    def __init__(self, backbone: HFBackbone, batch: int, length: int) -> None:
        self.batch = batch
        self.length = length
        self._backbone = backbone
        self._padded: PaddedSession | LengthwiseSession | None = None
        self._forward = Forward(backbone.model)
        self._configs = attention_configs(backbone.model.module)
        self._head = inner_model(backbone.model.module).get_output_embeddings()  # type: ignore[operator]
        device = backbone.model.device
        self._on_host = device.type == "cpu"
        self._cache = SlotCache(batch, length)
        self._waking = Waking(backbone.model.activation, batch)
        with torch.inference_mode(False):
            self._rows = torch.arange(batch, device=device)
            self._lengths = torch.zeros(batch, dtype=torch.int32, device=device)
        self._sizes = [0] * batch  # the lengths as the host knows them

    @property
    def cuts(self) -> bool:
        return self._padded is None

    def prefill(self, prompts: list[list[Tensor]], rows: Sequence[int] | None = None) -> list[Tensor]:
        if self._padded is None:
            try:
                return [self._prefill(prompts[0], rows)]
            except DoesNotTakePart:
                self._backbone.static = False
                self._cache.buffers.clear()
                self._padded = self._backbone.padded(self.batch, self.length)
        return self._padded.prefill(prompts, rows)

    @property
    def lengths(self) -> Tensor:
        return self._lengths[None] if self._padded is None else self._padded.lengths

    def append(self, tokens: Tensor) -> list[Tensor]:
        if self._padded is not None:
            return self._padded.append(tokens)
        (B, Q), device = tokens.shape, tokens.device
        shortest, stop = min(self._sizes[:B]), max(self._sizes[:B]) + Q
        if stop > self.length:
            raise IndexError(f"rows of {stop - Q} tokens and {Q} more do not fit {self.length}")
        rows, lengths = self._rows[:B], self._lengths[:B]
        positions = lengths.long()[:, None] + torch.arange(Q, device=device)
        lengths.add_(Q)
        # A device sees all slots: shapes that grow could not be captured in a graph.
        span = PassSpan(rows, shortest, stop if self._on_host else self.length, positions, lengths)
        logits = self._pass(tokens, positions, span)
        self._sizes[:B] = [size + Q for size in self._sizes[:B]]
        return [logits]

    def copy(self, sources: Rows, targets: Rows) -> None:
        if self._padded is not None:
            return self._padded.copy(sources, targets)
        of, to = checked_rows(sources, targets, self.batch, self._lengths.device)
        before, pairs = list(self._sizes), list(zip(of.tolist(), to.tolist(), strict=True))
        self._cache.copy(of, to, max((before[source] for source, _ in pairs), default=0))
        copied_rows(self._lengths, 0, origins(of, to, self.batch))
        for source, target in pairs:
            self._sizes[target] = before[source]
        self._waking.copy(of.tolist(), to.tolist())
        self._cache.cut(self._lengths, max(before))
        return None

    def follow(self, origins: Tensor) -> None:
        follow_by_copy(self, origins)

    def take_back(self, counts: Tensor) -> None:
        self.truncate(self.lengths - counts)

    def truncate(self, lengths: Tensor | Sequence[int]) -> None:
        if self._padded is not None:
            return self._padded.truncate(lengths)
        kept, longest = checked_lengths(lengths, self.lengths)[0], max(self._sizes)
        self._lengths.copy_(torch.minimum(self._lengths, kept))
        self._sizes = self._lengths.tolist()
        self._waking.cut(self._sizes)
        self._cache.cut(self._lengths, longest, min(self._sizes))
        return None

    def _prefill(self, prompts: list[Tensor], rows: Sequence[int] | None) -> Tensor:
        """Read each distinct prompt once, and copy what it left to the other rows that have it."""
        sizes, source = [len(prompt) for prompt in prompts], distinct(prompts)
        slots = self._emptied(len(prompts), rows)
        for slot, size in zip(slots, sizes, strict=True):
            self._sizes[slot] = size
        self._waking.read(slots, prompts)
        passes = in_passes(sorted(set(source), key=lambda one: sizes[one]), sizes, CHUNK)
        logits = torch.cat([self._read([slots[one] for one in own], [prompts[one] for one in own]) for own in passes])
        copies = [(slots[first], slots[one]) for one, first in enumerate(source) if one != first]
        if copies:
            sources, targets = torch.tensor(copies, device=logits.device).unbind(1)
            self._cache.copy(sources, targets, max(self._sizes[target] for _, target in copies))
        where = torch.tensor(slots, device=self._lengths.device)
        self._lengths[where] = torch.tensor(sizes, dtype=torch.int32, device=where.device)
        place = {one: index for index, one in enumerate(one for own in passes for one in own)}
        order = [place[first] for first in source]
        return logits if order == list(range(len(order))) else logits[torch.tensor(order, device=logits.device)]

    def _emptied(self, count: int, rows: Sequence[int] | None) -> list[int]:
        """The slots of so many prompts: the first ones, all others forgotten, or ``rows`` alone."""
        longest = max(self._sizes) if self._on_host else self.length
        if rows is None:
            self._cache.clear(longest)
            self._sizes = [0] * self.batch
            return list(range(count))
        kept = self._lengths.clone()
        kept[torch.tensor(rows, device=kept.device)] = 0
        self._cache.cut(kept, longest)
        return list(rows)

    def _read(self, rows: list[int], prompts: list[Tensor]) -> Tensor:
        """Padded on the right, where causal attention never looks -> [n, V] after each row's own last token."""
        sizes = [len(prompt) for prompt in prompts]
        width = max(sizes)
        # With the row's own last token: the caller's padding id may not be in the embedding.
        ids = torch.stack([torch.cat([prompt, prompt[-1:].expand(width - len(prompt))]) for prompt in prompts])
        where = torch.tensor(rows, device=ids.device)
        for start in range(0, width, CHUNK):
            stop = min(start + CHUNK, width)
            last = torch.tensor([min(size, stop) - 1 - start for size in sizes], device=ids.device)
            positions = torch.arange(start, stop, device=ids.device).expand(len(rows), -1)
            span = PassSpan(where, start, stop, row=rows[0])
            with self._forward.turn, at_each_rows(last, stop - start, self._head) as pick:
                awake = self._waking.places(rows, positions)
                logits = pick(self._pass(ids[:, start:stop], positions, span, awake))
            if not span.stored or not span.stored <= span.attended:
                raise DoesNotTakePart("not every layer that caches calls attention by name")
        return logits

    def _pass(self, ids: Tensor, positions: Tensor, span: PassSpan, awake: Tensor | None = None) -> Tensor:
        self._cache.span = span
        try:
            with self._forward.turn, attending(self._configs, span):
                return self._forward(
                    ids,
                    awake,
                    position_ids=positions,
                    attention_mask=torch.ones_like(ids),  # without one GPT-2 reads its ids to warn of padding
                    past_key_values=self._cache,
                )
        finally:
            self._cache.span = None
