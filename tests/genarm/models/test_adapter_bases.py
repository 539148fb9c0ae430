"""Which base an adapter given by path goes on, and whose tokenizer is compared."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from families import WORDS, assert_streams_are, make_model, save_adapter, with_adapter, word_tokenizer

from genarm import GuidedDecoder, UnsupportedAdapterError, VocabularyMismatchError


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A model of another base, in a folder."""
    make_model("llama", seed=2).save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def adapter_of(base: Any, folder: Path, trained_on: str | None) -> Path:
    save_adapter(base, "llama", folder, seed=4)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": trained_on}))
    return folder


def test_an_adapter_of_another_base_brings_that_base(base: Any, other: Path, tmp_path: Path) -> None:
    own = make_model("llama", seed=2)
    adapter = adapter_of(own, tmp_path / "adapter", str(other))
    assert_streams_are(GuidedDecoder(base, [adapter]), [base, with_adapter(own, adapter)])


def test_an_adapter_of_the_base_itself_goes_on_it(base: Any, tmp_path: Path) -> None:
    base.save_pretrained(tmp_path / "base")
    adapter = adapter_of(base, tmp_path / "adapter", str(tmp_path / "base"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder = GuidedDecoder.from_pretrained(tmp_path / "base", [adapter], device="cpu")
    decoder.base_model.load_state_dict(make_model("llama", seed=7).state_dict())
    changed = make_model("llama", seed=7)
    assert_streams_are(decoder, [changed, with_adapter(changed, adapter)])


def test_an_adapter_named_after_another_base_is_warned_of(base: Any, tmp_path: Path) -> None:
    base.save_pretrained(tmp_path / "base")
    adapter = adapter_of(base, tmp_path / "adapter", "some-org/another-base")
    with pytest.warns(UserWarning, match="was trained on some-org/another-base, and is applied to"):
        GuidedDecoder.from_pretrained(tmp_path / "base", {"r": adapter}, device="cpu")


@pytest.mark.parametrize("trained_on", [None, "some-org/gone", "/gone"])
def test_an_adapter_that_does_not_fit_and_whose_base_is_gone_is_refused(
    base: Any, tmp_path: Path, trained_on: str | None
) -> None:
    adapter = adapter_of(make_model("llama", seed=1, hidden=64), tmp_path / "adapter", trained_on)
    with pytest.raises(UnsupportedAdapterError, match="another architecture") as caught:
        GuidedDecoder(base, [adapter])
    assert "\n" not in str(caught.value)


def test_an_adapter_whose_base_is_in_the_cache_brings_it(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = make_model("llama", seed=1, hidden=64)
    wide.save_pretrained(tmp_path / "cached")
    cached(monkeypatch, {"some-org/wide": tmp_path / "cached"})
    adapter = adapter_of(wide, tmp_path / "adapter", "some-org/wide")
    assert_streams_are(GuidedDecoder(base, [adapter]), [base, with_adapter(wide, adapter)])


def test_an_adapter_in_the_cache_is_found_by_its_hub_id(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = adapter_of(base, tmp_path / "adapter", None)
    cached(monkeypatch, {"some-org/adapter": adapter})
    assert_streams_are(GuidedDecoder(base, ["some-org/adapter"]), [base, with_adapter(base, adapter)])


def cached(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    """Transformers' cache holds these repositories, and nothing else."""

    def find(name: str, file: str, **_: Any) -> str | None:
        path = folders.get(name, Path("/gone")) / file
        return str(path) if path.is_file() else None

    monkeypatch.setattr("genarm.models.files.cached_file", find)


def test_the_tokenizer_of_an_adapters_own_base_is_compared(base: Any, other: Path, tmp_path: Path) -> None:
    adapter = adapter_of(make_model("llama", seed=2), tmp_path / "adapter", str(other))
    word_tokenizer(WORDS[::-1]).save_pretrained(str(other))
    with pytest.raises(VocabularyMismatchError):
        GuidedDecoder(base, [adapter], tokenizer=word_tokenizer())
    word_tokenizer().save_pretrained(str(adapter))  # its own comes first
    GuidedDecoder(base, [adapter], tokenizer=word_tokenizer())
