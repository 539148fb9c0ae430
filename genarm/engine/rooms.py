"""The room that a request's prompts need in the sessions that hold them once, and sessions and caches of that size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..models.backbone import Backbone, Session
from ..models.fused.backbone import FusedBackbone
from ..models.fused.prefixes import Room
from ..request.options import Request

# Of each backbone, None where rows hold their own prompts.
Rooms = tuple[Room | None, ...]


def rooms_for(backbones: Sequence[Backbone], request: Request, behind: int, captured: bool = False) -> Rooms:
    """What the prompts of a request take, those included that are to come in the place of others, with up to ``behind``
    tokens after each. Caches of captured steps, which requests of all kinds have in common, hold no prompt for several
    rows but where an adapter sleeps on it."""
    holding = (one if isinstance(one, FusedBackbone) and (one.shares or not captured) else None for one in backbones)
    return tuple(None if one is None else _room(one, request, behind) for one in holding)


def _room(backbone: FusedBackbone, request: Request, behind: int) -> Room | None:
    texts = request.coming or request.streams
    streams = [texts[one if one < len(texts) else 0].host for one in backbone.streams]
    return backbone.room(streams, request.batch, behind, request.preferences)


def prompt_rooms(backbones: Sequence[Backbone], prompts: Sequence[Sequence[int]], behind: int) -> Rooms:
    """The same for prompts that all models read."""
    texts = [torch.tensor(prompt) for prompt in prompts]
    return tuple(
        one.room([texts] * len(one.streams), len(texts), behind, {}) if isinstance(one, FusedBackbone) else None
        for one in backbones
    )


def answer_rooms(backbones: Sequence[Backbone], length: int) -> Rooms:
    """For texts of ``length`` tokens that have no prompt to be held once, which take most."""
    shares = (isinstance(one, FusedBackbone) and one.shares for one in backbones)
    return tuple(Room(0, 0, length) if one else None for one in shares)


def session_of(backbone: Backbone, batch: int, length: int, given: Any, room: Room | None) -> Session:
    """A session of that size."""
    if room is not None and isinstance(backbone, FusedBackbone):
        return backbone.session(batch, length, given, room=room)
    return backbone.session(batch, length, given)


def places_of(backbone: Backbone, batch: int, length: int, room: Room | None) -> dict[torch.device, int]:
    """Bytes of its cache by the devices where they lie."""
    if room is not None and isinstance(backbone, FusedBackbone):
        return backbone.cache_places(batch, length, room)
    return backbone.cache_places(batch, length)


def with_rooms(backbones: Sequence[Backbone], rooms: Rooms) -> Iterator[tuple[Backbone, Room | None]]:
    """Each with its room; without ``rooms`` for any prompts."""
    return zip(backbones, rooms or [None] * len(backbones), strict=True)


def or_more(rooms: Rooms, others: Rooms) -> Rooms:
    """What the same backbones take for both."""
    pairs = zip(rooms, others, strict=True) if others else ((room, None) for room in rooms)
    return tuple(None if room is None else room.or_more(other) for room, other in pairs)
