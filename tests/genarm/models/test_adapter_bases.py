"""Which base an adapter given by path goes on, and whose tokenizer is compared."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from families import WORDS, assert_streams_are, make_model, save_adapter, with_adapter, word_tokenizer

from genarm import (
    GuidedDecoder,
    InvalidArgumentError,
    LoadingError,
    UnsupportedAdapterError,
    VocabularyMismatchError,
)
from genarm.models.adapters import read_adapter


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


ANOTHER = "was trained on .*other, and runs on "


def test_an_adapter_goes_on_the_base_given_where_it_fits_and_a_warning_names_both(
    base: Any, other: Path, tmp_path: Path
) -> None:
    """As PEFT puts it on whatever model its caller passes: the base given may be a merged, later one."""
    own = make_model("llama", seed=2)
    adapter = adapter_of(own, tmp_path / "adapter", str(other))
    with pytest.warns(UserWarning, match=ANOTHER + "the base given.*reward_bases=.'r': 'own'.*--reward-base r=own"):
        decoder = GuidedDecoder(base, {"r": adapter})
    assert_streams_are(decoder, [base, with_adapter(base, adapter)])
    base.save_pretrained(tmp_path / "merged")
    with pytest.warns(UserWarning, match=f"{ANOTHER}.*merged"):
        decoder = GuidedDecoder.from_pretrained(tmp_path / "merged", {"r": adapter}, device="cpu")
    assert_streams_are(decoder, [base, with_adapter(base, adapter)])


@pytest.mark.parametrize("choice", ["base", "own", "path", "module"])
def test_a_choice_of_base_is_followed_without_a_warning(base: Any, other: Path, tmp_path: Path, choice: str) -> None:
    own = make_model("llama", seed=2)
    adapter = adapter_of(own, tmp_path / "adapter", str(other))
    chosen: Any = {"path": str(other), "module": own}.get(choice, choice)
    names = {"path": str(other), "own": str(other), "module": "LlamaForCausalLM", "base": "the base"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rewards = {"r": adapter, "again": read_adapter(adapter)}
        decoder = GuidedDecoder(base, rewards, reward_bases=dict.fromkeys(rewards, chosen))
    wanted = with_adapter(base if choice == "base" else own, adapter)
    assert_streams_are(decoder, [base, wanted, wanted])
    one, two = decoder.models[1:]
    assert one.module is two.module, "a base is loaded once"
    assert decoder.describe() == [
        {"name": "base", "runs on": "LlamaForCausalLM", "path": "fused"},
        {"name": "r", "runs on": names[choice], "path": "fused"},
        {"name": "again", "runs on": names[choice], "path": "fused"},
    ]


def test_a_choice_of_base_that_is_none_is_refused(base: Any, tmp_path: Path) -> None:
    adapter = adapter_of(base, tmp_path / "adapter", None)
    for bases, rewards, cause in (
        ({"x": "base"}, {"r": adapter}, "names 'x', which is no reward model: there are r"),
        ({"r": 3}, {"r": adapter}, "is 3: pass 'base', 'own'"),
        ({"r": "own"}, {"r": base}, "'r', a loaded model, which has its weights"),
    ):
        with pytest.raises(InvalidArgumentError, match=cause):
            GuidedDecoder(base, rewards, reward_bases=bases)  # type: ignore[arg-type]
    with pytest.raises(LoadingError, match="its own base is asked for, and its"):
        GuidedDecoder(base, {"r": adapter}, reward_bases={"r": "own"})


def test_an_adapter_that_does_not_fit_brings_its_own_base_and_says_so(base: Any, tmp_path: Path) -> None:
    """A weaker model's reward on a stronger base."""
    weak = make_model("llama", seed=2, hidden=16)
    weak.save_pretrained(tmp_path / "weak")
    adapter = adapter_of(weak, tmp_path / "adapter", str(tmp_path / "weak"))
    with pytest.warns(UserWarning, match="'r' does not fit the base given, and runs on its own base, .*weak"):
        decoder = GuidedDecoder(base, {"r": adapter})
    assert_streams_are(decoder, [base, with_adapter(weak, adapter)])
    assert decoder.describe()[1]["runs on"] == str(tmp_path / "weak")


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
    with pytest.warns(UserWarning, match="was trained on some-org/another-base, and runs on"):
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
    with pytest.warns(UserWarning, match="runs on its own base, some-org/wide"):
        decoder = GuidedDecoder(base, [adapter])
    assert_streams_are(decoder, [base, with_adapter(wide, adapter)])


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


@pytest.mark.filterwarnings("ignore:reward model .* was trained on:UserWarning")
def test_the_tokenizer_of_the_base_an_adapter_names_is_compared(base: Any, other: Path, tmp_path: Path) -> None:
    adapter = adapter_of(make_model("llama", seed=2), tmp_path / "adapter", str(other))
    word_tokenizer(WORDS[::-1]).save_pretrained(str(other))
    with pytest.raises(VocabularyMismatchError):
        GuidedDecoder(base, [adapter], tokenizer=word_tokenizer())
    word_tokenizer().save_pretrained(str(adapter))  # its own comes first
    GuidedDecoder(base, [adapter], tokenizer=word_tokenizer())
