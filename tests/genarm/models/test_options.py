"""What goes through to transformers when models are loaded by path, and what is refused before anything is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import make_model, save_adapter

from genarm import GuidedDecoder, InvalidArgumentError
from genarm.models.options import make_source

HUB = {"token": "secret", "cache_dir": "/cache", "local_files_only": True, "force_download": False}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What transformers is asked to load, in order, as (name, keywords)."""
    calls: list[tuple[str, dict[str, Any]]] = []
    original = transformers.AutoModelForCausalLM.from_pretrained

    def load(name: str, **keywords: Any) -> Any:
        calls.append((name, keywords))
        return original(name, **{key: value for key, value in keywords.items() if key not in HUB})

    monkeypatch.setattr("genarm.models.loading.AutoModelForCausalLM.from_pretrained", load)
    return calls


def test_options_reach_the_base_and_those_of_the_hub_reach_all(base: Any, tmp_path: Path, asked: Any) -> None:
    base.save_pretrained(tmp_path / "base")
    make_model("llama", seed=2).save_pretrained(tmp_path / "full")
    own = {"revision": "v2", "variant": None, "attn_implementation": "eager"}
    rewards = {"full": tmp_path / "full", "lora": save_adapter(base, "llama", tmp_path / "lora", seed=4)}
    decoder = GuidedDecoder.from_pretrained(tmp_path / "base", rewards, device="cpu", **own, **HUB)
    (name, first), (other, second) = asked
    assert (name, other) == (str(tmp_path / "base"), str(tmp_path / "full"))
    assert HUB.items() <= first.items() and HUB.items() <= second.items()
    assert (first["revision"], first["attn_implementation"]) == ("v2", "eager") and "variant" not in first
    assert second.keys().isdisjoint(own)
    assert decoder.base_model.config._attn_implementation == "eager"


def test_torch_dtype_is_another_name_of_dtype() -> None:
    assert make_source("auto", "cpu", False, {"torch_dtype": torch.float16}).dtype == torch.float16
    with pytest.raises(InvalidArgumentError, match="dtype and torch_dtype are one setting"):
        make_source("float32", "cpu", False, {"torch_dtype": torch.float16})


def test_a_quantised_model_is_made_where_it_is_to_lie() -> None:
    source = make_source("auto", "cpu", False, {"quantization_config": {"any": 1}})
    assert source.keywords()["device_map"] == {"": torch.device("cpu")}
    assert make_source("auto", "auto", False, {"device_map": "auto"}).keywords() == {"device_map": "auto"}


def test_what_cannot_be_meant_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"knows no .max_lenght.*revision"):
        GuidedDecoder.from_pretrained(tmp_path, max_lenght=3)  # type: ignore[call-arg]
    with pytest.raises(InvalidArgumentError, match="device and device_map both say where"):
        GuidedDecoder.from_pretrained(tmp_path, device="cpu", device_map="auto")
