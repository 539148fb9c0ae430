"""Models whose rotary frequencies follow the length of the text: longrope (Phi-3's) and dynamic NTK.

Where the frequencies change, keys that are in a cache were rotated by the old ones. transformers reads a text anew at
longrope's switch, by the length of the batch's longest row, and leaves the keys as they are under dynamic scaling. Here
a row's frequencies are those of its own length and all its keys have them: rows whose frequencies agree are decoded
together, and those that get others are read anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedModelError
from ..backbone import Rows, checked_lengths, checked_rows, follow_by_copy
from ..causal import CausalModel, inner_model
from ..turns import turn
from .padded import PaddedSession
from .waking import Waking

Key = tuple[int, ...]


class Frequencies:
    """How a model's rotary frequencies follow the length of the text; false where they do not."""

    def __init__(self, config: Any) -> None:
        settings = getattr(config, "rope_parameters", None) or {}
        # One for all layers, or one for each type of layer.
        parts = [part for part in (settings, *settings.values()) if isinstance(part, dict)]
        self._switches = [_original_length(part, config) for part in parts if part.get("rope_type") == "longrope"]
        self._grows_from = [config.max_position_embeddings for part in parts if "dynamic" in str(part.get("rope_type"))]

    def __bool__(self) -> bool:
        return bool(self._switches or self._grows_from)

    @property
    def constant_below(self) -> int:
        """Texts of fewer tokens all have the same frequencies."""
        return int(min([*self._switches, *self._grows_from]))

    def key(self, tokens: int) -> Key:
        """Equal for texts that have the same frequencies."""
        grown = (tokens if tokens > length else 0 for length in self._grows_from)
        return (*(int(tokens > length) for length in self._switches), *grown)


def _original_length(part: dict[str, Any], config: Any) -> int:
    own = part.get("original_max_position_embeddings")
    return int(own or getattr(config, "original_max_position_embeddings", None) or config.max_position_embeddings)


class LengthwiseSession:
    """B rows of one such model while they decode, in groups of rows whose frequencies agree.

    ``whole``: something on the module may know the batch's rows, so that all of them have to be in every pass.
    """

    def __init__(self, model: CausalModel, batch: int, length: int, frequencies: Frequencies, whole: bool) -> None:
        self.batch = batch
        self.length = length
        self._model = model
        self._frequencies = frequencies
        self._whole = whole
        self._turn = turn(inner_model(model.module))
        self._rotary = [part for part in model.module.modules() if hasattr(part, "max_seq_len_cached")]
        self._waking = Waking(model.activation, batch)
        self._texts: list[Tensor] = []
        self._groups: dict[tuple[Key, tuple[int, ...]], PaddedSession] = {}

    @property
    def lengths(self) -> Tensor:
        device = self._texts[0].device
        return torch.tensor([[len(text) for text in self._texts]], dtype=torch.int32, device=device)

    @property
    def cuts(self) -> bool:
        return False

    def prefill(self, prompts: list[list[Tensor]], rows: Sequence[int] | None = None) -> list[Tensor]:
        assert rows is None, "a row of such a cache cannot be exchanged"
        self._texts, self._groups = list(prompts[0]), {}
        self._waking.read(range(len(self._texts)), self._texts)
        return [self._read()]

    def append(self, tokens: Tensor) -> list[Tensor]:
        if max(map(len, self._texts)) + tokens.shape[1] > self.length:
            raise IndexError(f"rows of up to {max(map(len, self._texts))} tokens and {tokens.shape[1]} more do not fit")
        steps = []
        for column in tokens.unbind(1):  # each token's logits are those of the text up to it
            self._texts = [torch.cat([text, new[None]]) for text, new in zip(self._texts, column, strict=True)]
            steps.append(self._read())
        return [torch.stack(steps, 1)]

    def copy(self, sources: Rows, targets: Rows) -> None:
        pair = checked_rows(sources, targets, self.batch, self._texts[0].device)
        before = list(self._texts)
        for source, target in zip(*(rows.tolist() for rows in pair), strict=True):
            self._texts[target] = before[source]
        self._waking.copy(pair[0].tolist(), pair[1].tolist())
        self._groups = {}

    def follow(self, origins: Tensor) -> None:
        follow_by_copy(self, origins)

    def take_back(self, counts: Tensor) -> None:
        self.truncate(self.lengths - counts)

    def truncate(self, lengths: Tensor | Sequence[int]) -> None:
        kept = checked_lengths(lengths, self.lengths)[0].tolist()
        self._texts = [text[:length] for text, length in zip(self._texts, kept, strict=True)]
        self._waking.cut([*kept, *self._waking.starts[len(kept) :]])
        self._groups = {}

    def _read(self) -> Tensor:
        """[B, V] after each text, which is a token longer than what its group's session holds."""
        members: dict[Key, list[int]] = {}
        for row, text in enumerate(self._texts):
            members.setdefault(self._frequencies.key(len(text)), []).append(row)
        if self._whole and len(members) > 1:
            raise UnsupportedModelError(
                f"{self._model.name} has hooks, which may know the batch's rows, and rotary frequencies that follow "
                "each row's length: take the hooks off, or decode prompts of one length at a time"
            )
        groups, logits = {}, [torch.empty(0)] * len(self._texts)
        for key, rows in members.items():
            group = key, tuple(rows)
            session, texts = self._groups.get(group), [self._texts[row] for row in rows]
            with self._unscaled():
                if session is None:
                    session = PaddedSession(self._model, len(rows), self.length)
                    found = session.begin(texts, [self._waking.starts[row] for row in rows])
                else:
                    found = session.append(torch.stack([text[-1:] for text in texts]))[0][:, 0]
            groups[group] = session
            for row, own in zip(rows, found, strict=True):
                logits[row] = own
        self._groups = groups
        return torch.stack(logits)

    @contextmanager
    def _unscaled(self) -> Iterator[None]:
        """The module has not read a long text yet, as far as its frequencies know; it is as it was afterwards."""
        with self._turn:
            saved = [(part, name, getattr(part, name)) for part in self._rotary for name in _changing(part)]
            try:
                for part, name, value in saved:
                    if name.endswith("inv_freq"):
                        first = getattr(part, name.removesuffix("inv_freq") + "original_inv_freq")
                        setattr(part, name, first.to(value.device))
                    else:
                        setattr(part, name, part.original_max_seq_len)
                yield
            finally:
                for part in self._rotary:
                    for name in set(_changing(part)) - {own for one, own, _ in saved if one is part}:
                        delattr(part, name)
                for part, name, value in saved:
                    setattr(part, name, value)


def _changing(part: Any) -> list[str]:
    """What transformers changes in a rotary embedding as texts grow."""
    first = [name for name in part._buffers if name.endswith("original_inv_freq")]
    cached = [name for name in vars(part) if name.endswith("max_seq_len_cached")]
    return [*(name.removesuffix("original_inv_freq") + "inv_freq" for name in first), *cached]
