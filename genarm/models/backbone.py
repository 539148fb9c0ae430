"""What the engine asks of a set of weights and of its part in a running batch: text grows, is copied, and is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from ..request.preferences import Preference

# {stream: each row's preference}
RowPreferences = Mapping[int, Sequence[Preference]]
Rows = Tensor | Sequence[int]


class Session(Protocol):
    """A backbone's part of a running batch: S streams of up to ``batch`` rows, at most ``length`` tokens each.

    Its buffers stay where they are from one call to the next, so that a captured graph may read them. ``append``,
    ``copy`` and ``truncate`` leave it as if each row's present text had been read by ``prefill``.
    """

    batch: int
    length: int

    @property
    def lengths(self) -> Tensor:
        """[S, B] int32 on the device: how many tokens each row of each stream holds."""

    @property
    def cuts(self) -> bool:
        """Whether rows can be cut and exchanged beside the others at little cost: not where what they hold would have
        to be read anew. Known once prompts have been read."""

    def prefill(self, prompts: list[list[Tensor]], rows: Sequence[int] | None = None) -> list[Tensor]:
        """Forget what was there and read S lists of B prompts, 1-D int64 each -> S logits [B, V] of what follows.
        ``rows``: of n prompts in as many rows; the others keep what they hold."""

    def append(self, tokens: Tensor) -> list[Tensor]:
        """Append Q tokens to each row of every stream, [B, Q] int64 -> S logits [B, Q, V] of what follows each.

        Raises:
            IndexError: where the host knows that a row would not fit its ``length``.
        """

    def copy(self, sources: Rows, targets: Rows) -> None:
        """Give rows ``targets`` of every stream what rows ``sources`` hold, n of either, all at once: rows may swap.
        From then on both go their own ways.

        Raises:
            ValueError: for rows that there are not, a target that stands twice, or rows of different preferences,
                where the host sees it.
        """

    def follow(self, origins: Tensor) -> None:
        """Let each row of every stream go on from what row ``origins`` [batch] int64 holds, which was read with the
        same prompt and is as long. A row that others follow goes on from its own."""

    def truncate(self, lengths: Tensor | Sequence[int]) -> None:
        """Keep the first so many tokens of each row: [B] for every stream alike, or [S, B].

        Raises:
            ValueError: for more tokens than a row holds, or fewer than none, where the host sees it.
        """

    def take_back(self, counts: Tensor) -> None:
        """Forget the last tokens of each row of every stream, so many of each, [B] on the device: ``truncate`` without
        a look at them."""


class Backbone(Protocol):
    """One set of weights and the streams that run on it."""

    @property
    def kind(self) -> str:
        """The path that runs."""

    @property
    def streams(self) -> tuple[int, ...]:
        """The streams' places among the decoder's models."""

    @property
    def vocab_size(self) -> int:
        """Columns of a stream's logits."""

    @property
    def dtype(self) -> torch.dtype:
        """Of logits and activations."""

    def cache_bytes(self, batch: int, length: int) -> int:
        """Bytes of key-value cache of a session."""

    def cache_places(self, batch: int, length: int) -> dict[torch.device, int]:
        """The same by the devices where the layers' keys and values lie, which are those that its passes run on."""

    def prompt_bytes(self, batch: int, length: int) -> int:
        """Bytes of activations of the largest pass over ``batch`` prompts of up to ``length`` tokens per stream."""

    def step_bytes(self, batch: int) -> int:
        """Bytes of activations of a pass over one token per row."""

    @property
    def mixes_preferences(self) -> bool:
        """Whether rows of a session may have different preferences."""

    def given(self, preferences: RowPreferences) -> AbstractContextManager[Any]:
        """A block in which sessions run for rows with these preferences of the streams that are conditioned on them;
        what it yields is for ``session``.

        Raises:
            InvalidArgumentError: for different preferences where rows cannot have them.
        """

    def session(self, batch: int, length: int, given: Any = None) -> Session:
        """Buffers for a batch.

        Raises:
            InvalidArgumentError: for a stream that is conditioned on preferences and was given none.
        """


def checked_rows(sources: Rows, targets: Rows, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of a ``copy`` -> two [n] int64 on the device. What is on a device is not waited for."""
    pair = [torch.as_tensor(rows, dtype=torch.int64) for rows in (sources, targets)]
    if pair[0].shape != pair[1].shape or pair[0].dim() != 1:
        raise ValueError(f"sources are {list(pair[0].shape)} and targets {list(pair[1].shape)}: expected [n] of either")
    for name, rows in zip(("sources", "targets"), pair, strict=True):
        found = rows.tolist() if rows.device.type == "cpu" else []
        if any(not 0 <= row < batch for row in found):
            raise ValueError(f"{name} are {found}: expected rows from 0 to {batch - 1}")
        if name == "targets" and len(set(found)) < len(found):
            raise ValueError(f"targets are {found}: expected each row once")
    return pair[0].to(device), pair[1].to(device)


def checked_lengths(lengths: Tensor | Sequence[int], held: Tensor) -> Tensor:
    """Lengths of a ``truncate`` of streams that hold ``held`` [S, B] -> [S, B] int32 on the device."""
    kept = torch.as_tensor(lengths, dtype=torch.int32)
    if kept.shape not in (held.shape, held.shape[1:]):
        raise ValueError(f"lengths are {list(kept.shape)}: expected {list(held.shape[1:])} or {list(held.shape)}")
    kept = kept.expand(held.shape)
    if kept.device.type == "cpu" and held.device.type == "cpu" and bool(((kept < 0) | (kept > held)).any()):
        raise ValueError(f"lengths are {kept.tolist()}: expected from 0 to what each row holds, {held.tolist()}")
    return kept.to(held.device)


def follow_by_copy(session: Session, origins: Tensor) -> None:
    """``follow`` of a session whose rows the host knows: those that change are copied."""
    targets = (origins != torch.arange(len(origins), device=origins.device)).nonzero()[:, 0]
    if len(targets):
        session.copy(origins[targets], targets)


def copied_rows(held: Tensor, dim: int, origin: Tensor) -> None:
    """Give each row of ``held`` along ``dim`` what row ``origin`` [R] of it holds. Not by writing to an index: in
    torch's deterministic mode that would look at it, which a captured step does not allow."""
    held.copy_(held.index_select(dim, origin))


def origins(sources: Tensor, targets: Tensor, rows: int) -> Tensor:
    """Where each of ``rows`` rows takes its content from, [R] int64, in a copy of ``sources`` to ``targets`` [n]."""
    own = torch.arange(rows, device=targets.device)
    found, order = targets.sort()
    found = torch.cat([found, found.new_full((1,), rows)])  # which is no row, for those behind the last target
    place = torch.searchsorted(found, own)
    return torch.where(found[place] == own, torch.cat([sources[order], own[:1]])[place], own)
