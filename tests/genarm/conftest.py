"""The path that decoders take where a test makes none for itself."""

from __future__ import annotations

import pytest

from genarm import GuidedDecoder


@pytest.fixture(params=["auto", "hf"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both, one after the other: the fused decoder and transformers' forward passes, as a decoder's own default. So
    ``genarm.generate`` and the drop-in, which have no such argument, take it too."""
    defaults = GuidedDecoder.__init__.__kwdefaults__
    assert defaults["engine"] == "auto"
    monkeypatch.setitem(defaults, "engine", request.param)
    return str(request.param)
