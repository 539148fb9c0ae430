"""A LoRA folder given as a model is the model it was trained on with the adapter as a part of it, said in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import assert_streams_are, save_adapter, with_adapter, word_tokenizer
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from genarm import GuidedDecoder, LoadingError, UnsafeWeightsError, UnsupportedAdapterError
from genarm.models import joined
from genarm.models.loading import full_model, load_model, load_scorer, load_tokenizer
from genarm.models.options import Source

CPU = Source(torch.float32, torch.device("cpu"))
SAID = pytest.mark.filterwarnings("ignore:.*is an adapter. the model is:UserWarning")
IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def tuned(base: Any, tmp_path: Path) -> Path:
    """What a fine-tuning of the base leaves: an adapter that names the base's folder, and a tokenizer."""
    base.save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    return tuned_on(base, tmp_path / "base", tmp_path / "tuned", seed=4)


def tuned_on(model: Any, place: Path, folder: Path, seed: int, **settings: Any) -> Path:
    save_adapter(model, "llama", folder, seed=seed, **settings)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(place)}))
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def test_a_lora_folder_is_its_base_with_the_adapter_merged(base: Any, tuned: Path, tmp_path: Path) -> None:
    wanted = with_adapter(base, tuned)
    with pytest.warns(UserWarning, match=r"tuned is an adapter: the model is .*base with it, merged into the weights"):
        model: Any = load_model(tuned, CPU)
    assert torch.allclose(logits(model), logits(wanted), atol=1e-4)
    assert not any(isinstance(part, BaseTunerLayer) for part in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters()), "it may be trained whole"
    assert model.name_or_path == model.config._name_or_path == str(tuned), "what an adapter on it will record"
    reward = save_adapter(model, "llama", tmp_path / "reward", seed=9)
    with pytest.warns(UserWarning, match="is an adapter"):
        decoder = GuidedDecoder.from_pretrained(tuned, {"r": reward}, device="cpu")
    assert [backbone.kind for backbone in decoder.engine.backbones] == ["fused"]
    assert_streams_are(decoder, [wanted, with_adapter(model, reward)])


@SAID
def test_new_layers_of_peft_leave_the_adapter_in_its_base(tuned: Path, base: Any) -> None:
    """So an AR-RM trained on it is held against it, and switching the new adapter off gives it back."""
    model = load_model(tuned, CPU)
    before = logits(model)
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False))
    assert not torch.allclose(logits(peft), before, atol=1e-2)
    with peft.disable_adapter():
        assert torch.equal(logits(peft), before)
    assert not torch.allclose(before, logits(base), atol=1e-2)


@SAID
def test_where_merging_would_round_the_adapter_is_added_by_hooks(
    base: Any, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined, "has_plain_weight", lambda _: False)
    model: Any = load_model(tuned, CPU)
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, base.model.layers[0].mlp.up_proj.weight)
    wanted = with_adapter(base, tuned)
    assert torch.allclose(logits(model), logits(wanted), atol=1e-4)
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    with peft.disable_adapter():
        assert torch.allclose(logits(peft), logits(wanted), atol=1e-4)


@SAID
def test_an_adapter_on_an_adapter_has_both(base: Any, tuned: Path, tmp_path: Path) -> None:
    first = with_adapter(base, tuned).merge_and_unload()
    second = tuned_on(first, tuned, tmp_path / "second", seed=5)
    assert torch.allclose(logits(load_model(second, CPU)), logits(with_adapter(first, second)), atol=1e-4)
    assert full_model(str(second)) == str(tmp_path / "base")
    assert load_tokenizer(second).get_vocab() == word_tokenizer().get_vocab(), "its base's, where it has none"


@SAID
@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
@pytest.mark.parametrize("settings", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}], ids=["DoRA", "head"])
def test_more_than_plain_lora_is_merged_by_peft(
    base: Any, tuned: Path, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tuned_on(base, tmp_path / "base", tmp_path / "more", seed=6, **settings)
    assert torch.allclose(logits(load_model(folder, CPU)), logits(with_adapter(base, folder)), atol=1e-4)
    monkeypatch.setattr(joined, "has_plain_weight", lambda _: False)
    with pytest.raises(UnsupportedAdapterError, match="quantised or offloaded, where only that can be added"):
        load_model(folder, CPU)


@SAID
def test_a_scorer_may_be_made_of_it(tuned: Path) -> None:
    scorer: Any = load_scorer(tuned, CPU, new_score=True)
    model: Any = load_model(tuned, CPU)
    with torch.no_grad():
        assert torch.equal(scorer.model(input_ids=IDS)[0], model.model(input_ids=IDS)[0])


def edit(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


SPOILT: dict[str, tuple[Any, Any, str]] = {
    "nameless": (lambda f: edit(f, base_model_name_or_path=None), LoadingError, "names no base_model_name_or_path"),
    "its own": (lambda f: edit(f, base_model_name_or_path=str(f)), LoadingError, "names the adapter itself"),
    "gone": (lambda f: edit(f, base_model_name_or_path="/gone"), LoadingError, "/gone: no such folder"),
    "a scorer": (lambda f: edit(f, task_type="SEQ_CLS"), UnsupportedAdapterError, "SEQ_CLS"),
    "a model too": (lambda f: (f / "model.safetensors").touch(), LoadingError, "a LoRA adapter and the weights of"),
    "pickled": (pickled, UnsafeWeightsError, "pickled"),
}


@pytest.mark.parametrize(("spoil", "error", "cause"), SPOILT.values(), ids=SPOILT.keys())
def test_what_cannot_be_joined_is_refused_in_one_line(tuned: Path, spoil: Any, error: Any, cause: str) -> None:
    spoil(tuned)
    with pytest.raises(error, match=cause) as caught:
        GuidedDecoder.from_pretrained(tuned, device="cpu")
    assert "\n" not in str(caught.value)
