"""The small trained models that ship with the library: one base and four LoRA reward models on it."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
BASE = ASSETS / "base"
REWARDS = {name: ASSETS / name for name in ("art", "science", "agreeableness", "risk")}
BASE_MIN_P = 0.02  # keeps the base fluent: tokens it finds this much less likely than its favourite are left out
