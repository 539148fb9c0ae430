"""Decoders whose steps are captured, on a CPU by recording (recorded.py), and the same without."""

from __future__ import annotations

from typing import Any

import pytest
from families import make_model, save_adapter

from genarm import GuidedDecoder


@pytest.fixture(scope="module")
def base() -> Any:
    return make_model("llama", seed=1)


@pytest.fixture(scope="module")
def rewards(base: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An adapter on the base's weights, and a model of its own: two backbones."""
    folder = tmp_path_factory.mktemp("adapters") / "a"
    return {"a": save_adapter(base, "llama", folder, seed=4), "b": make_model("qwen3", seed=2, hidden=16)}


@pytest.fixture
def eager(base: Any, rewards: dict[str, Any]) -> GuidedDecoder:
    return GuidedDecoder(base, rewards, engine="eager", max_batch_size=16)


@pytest.fixture
def decoder(base: Any, rewards: dict[str, Any]) -> GuidedDecoder:
    return GuidedDecoder(base, rewards, max_batch_size=16, max_length=100)
