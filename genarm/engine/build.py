"""A decoder's engine, and the most rows that it decodes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..models.causal import CausalModel
from ..models.fused.attention import AttentionName
from ..models.plan import Plan
from ..models.positions import Positions
from .engine import Engine, capturable
from .memory import largest_batch

NO_LIMIT = 2**31


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How a decoder's models run: on which paths, in batches and texts of what size at most. A decoder of fewer of
    them runs them alike."""

    engine: str
    attention: AttentionName
    max_batch_size: int | Literal["auto"] | None
    max_length: int | None


def build_engine(models: Sequence[CausalModel], settings: EngineSettings) -> tuple[Engine, int, int]:
    """-> the engine of M models, the most rows that it decodes at once, and the most tokens of a text."""
    positions = Positions(models)
    limit = positions.limit(NO_LIMIT if settings.max_length is None else settings.max_length)
    plan = Plan(models, fuse=settings.engine != "hf", attention=settings.attention)
    device, most = models[0].device, settings.max_batch_size
    if most == "auto":
        captured = settings.engine == "auto" and bool(capturable(plan.backbones, device))
        most = largest_batch(plan.backbones, positions.usual(limit), device, captured)
    limits = (most, None if settings.max_length is None else limit)
    engine = Engine(
        models, plan, positions, graphs=settings.engine == "auto", limits=limits, auto=settings.max_batch_size == "auto"
    )
    return engine, NO_LIMIT if most is None else most, limit
