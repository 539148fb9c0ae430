"""Tests of decoding run on both paths: the fused decoder, and transformers' own forward passes in its place."""

from __future__ import annotations

from typing import Any

import pytest
from families import FAMILIES

from genarm.models import plan

BOTH_PATHS = {
    "test_decoder",
    "test_dropin",
    "test_dropin_sampling",
    "test_greedy",
    "test_guidance",
    "test_lora",
    "test_oracle",
    "test_plain_generate",
    "test_results",
    "test_row_independence",
    "test_sampling_distribution",
    "test_stream",
}
# Of the families that a test goes through, those that run twice: the others are not fused, or much like these.
FUSED_FAMILIES = {"llama", "qwen3"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in BOTH_PATHS:
        metafunc.parametrize("decoding_path", ["fused", "hf"], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not _is_double(getattr(item, "callspec", None))]


def _is_double(call: Any) -> bool:
    """Whether a case would run on transformers what runs on it anyway."""
    values = {} if call is None else call.params
    families = {value for value in values.values() if isinstance(value, str) and value in FAMILIES}
    return values.get("decoding_path") == "hf" and bool(families) and not families & FUSED_FAMILIES


@pytest.fixture(autouse=True)
def decoding_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path that decoders take, those of the module's fixtures too: their plans see another fingerprint."""
    path: str = getattr(request, "param", "fused")
    if path == "hf":
        own = plan._fingerprint
        monkeypatch.setattr(plan, "why_not", lambda _model: "this test runs without")
        monkeypatch.setattr(plan, "_fingerprint", lambda model: ("hf", *own(model)))
    return path
