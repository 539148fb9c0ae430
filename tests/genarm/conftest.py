"""Models that many tests share, and the path that decoders take where a test makes none for itself."""

from __future__ import annotations

from typing import Any

import pytest
from families import make_model

from genarm import GuidedDecoder


@pytest.fixture(scope="session")
def base() -> Any:
    """For tests that leave it as it is; so the next two are."""
    return make_model("llama", seed=1)


@pytest.fixture(scope="session")
def reward() -> Any:
    return make_model("llama", seed=2, hidden=16)


@pytest.fixture(scope="session")
def decoder(base: Any, reward: Any) -> GuidedDecoder:
    return GuidedDecoder(base, {"r": reward})


@pytest.fixture(params=["auto", "hf"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both, one after the other: the fused decoder and transformers' forward passes, as a decoder's own default. So
    ``genarm.generate`` and the drop-in, which have no such argument, take it too."""
    defaults = GuidedDecoder.__init__.__kwdefaults__
    assert defaults["engine"] == "auto"
    monkeypatch.setitem(defaults, "engine", request.param)
    return str(request.param)
