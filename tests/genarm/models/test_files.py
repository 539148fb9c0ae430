"""Where files are looked for: in a folder, on the hub where it answers, else in the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genarm.models import files


def test_the_hub_is_asked_only_where_it_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def answers(offline: bool = False, resolves: bool = True, proxy: str | None = None) -> bool:
        monkeypatch.setattr(files.constants, "HF_HUB_OFFLINE", offline)
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        if proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy)

        def look_up(*_: Any) -> list[Any]:
            if resolves:
                return []
            raise OSError("no network")

        monkeypatch.setattr(files.socket, "getaddrinfo", look_up)
        files.hub_answers.cache_clear()
        try:
            return files.hub_answers()
        finally:
            files.hub_answers.cache_clear()

    assert answers()
    assert answers(resolves=False, proxy="http://proxy:1")
    assert not answers(resolves=False)
    assert not answers(offline=True)
    monkeypatch.setattr(files, "cached_file", lambda name, file, **_: str(tmp_path / file))
    assert files.model_source("some-org/model") == str(tmp_path)
    assert files.model_source(str(tmp_path)) == str(tmp_path)
