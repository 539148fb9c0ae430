"""The small trained models that ship with the library: one base and LoRA reward models on it, in two kinds."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
BASE = ASSETS / "base"
REWARDS = {name: ASSETS / name for name in ("art", "science", "agreeableness", "risk")}
# The same that sleep on prompts (docs/activated.md).
ACTIVATED = {f"{name}-activated": ASSETS / f"{name}-activated" for name in REWARDS}
BASE_MIN_P = 0.02  # keeps the base fluent: tokens it finds this much less likely than its favourite are left out
