"""Loaded PeftModels as streams, on copies of the base or in its own layers: each stream is its own model, on either
path, and the modules are left as they were."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from families import assert_streams_are, make_model, random_prompts, save_adapter, with_adapter
from peft import PeftModel

from genarm import GuidedDecoder, UnsupportedAdapterError

PROMPTS = random_prompts([6, 11], seed=1)


@pytest.fixture(scope="module")
def saved(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(base, "llama", tmp_path_factory.mktemp("plain") / "adapter", seed=4)


@pytest.fixture(scope="module")
def adapted(base: Any, saved: Path) -> Any:
    """What peft makes of the base and the adapter, apart from both."""
    return with_adapter(base, saved)


def shared(base: Any, saved: Path) -> tuple[Any, Any]:
    """A base, and a PeftModel whose adapter sits in that base's own layers."""
    own = copy.deepcopy(base)
    return own, PeftModel.from_pretrained(own, str(saved)).eval()


def test_every_stream_that_is_the_base_is_without_the_shared_adapter(
    base: Any, saved: Path, adapted: Any, tmp_path: Path, engine: str
) -> None:
    """The base once more (classifier-free guidance), another adapter by path, the shared adapter twice."""
    other = save_adapter(base, "llama", tmp_path / "other", seed=9)
    own, peft = shared(base, saved)
    full = make_model("gpt2", seed=3)
    rewards = {"peft": peft, "itself": own, "path": str(other), "full": full, "again": peft}
    assert_streams_are(GuidedDecoder(own, rewards), [base, adapted, base, with_adapter(base, other), full, adapted])


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "embed_tokens"]}],
    ids=["DoRA", "modules_to_save", "embedding"],
)
def test_a_loaded_peft_model_may_be_anything_peft_can_run(base: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4, **settings)
    peft = with_adapter(base, folder)
    assert_streams_are(GuidedDecoder(base, [peft]), [base, peft])
    own, on_own_layers = shared(base, folder)
    assert_streams_are(GuidedDecoder(own, [on_own_layers]), [base, peft])


def test_two_peft_models_on_one_base_are_refused(base: Any, saved: Path) -> None:
    own, peft = shared(base, saved)
    second = PeftModel.from_pretrained(own, str(saved), adapter_name="second").eval()
    with pytest.raises(UnsupportedAdapterError, match="pass the adapters' paths instead") as caught:
        GuidedDecoder(own, [peft, second])
    assert "\n" not in str(caught.value)


def test_a_peft_model_as_the_base_is_the_base_with_its_adapter(
    base: Any, saved: Path, adapted: Any, engine: str
) -> None:
    """The model inside it is a reference without the adapter, as in emulated fine-tuning."""
    _, peft = shared(base, saved)
    reward = make_model("llama", seed=2)
    assert_streams_are(GuidedDecoder(peft, [reward, peft]), [adapted, reward, adapted])
    assert_streams_are(GuidedDecoder(peft, {"reference": peft.get_base_model()}), [adapted, base])


def test_a_shared_peft_model_is_left_as_it_was(base: Any, saved: Path, adapted: Any, engine: str) -> None:
    own, peft = shared(base, saved)
    peft.train()
    peft.base_model.model.model.layers[0].eval()
    before = {name: tensor.clone() for name, tensor in peft.state_dict().items()}
    flags = [(part.training, len(part._forward_hooks)) for part in peft.modules()]
    assert not any(parameter.requires_grad for parameter in peft.parameters()), "loaded for inference it is frozen"
    GuidedDecoder(own, {"a": peft, "b": str(saved)}).generate(PROMPTS, max_new_tokens=3)
    assert [(part.training, len(part._forward_hooks)) for part in peft.modules()] == flags
    assert not any(parameter.requires_grad for parameter in peft.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in peft.state_dict().items())
    assert_streams_are(GuidedDecoder(peft), [adapted])


def test_an_adapter_switched_off_by_the_caller_stays_off(base: Any, saved: Path, adapted: Any, engine: str) -> None:
    own, peft = shared(base, saved)
    with peft.disable_adapter():
        GuidedDecoder(own, [peft]).generate(PROMPTS, max_new_tokens=1)
        assert_streams_are(GuidedDecoder(peft), [base])
    assert_streams_are(GuidedDecoder(peft), [adapted])


def test_a_merged_model_is_left_merged(base: Any, saved: Path, adapted: Any, engine: str) -> None:
    """Its layers' own weights are not there any more: a stream without the adapter is refused, before decoding or when
    the caller merged in between; apart from that it decodes as it is."""
    own, peft = shared(copy.deepcopy(base).bfloat16(), saved)
    decoder = GuidedDecoder(own, {"r": peft})
    peft.merge_adapter()
    before = {name: tensor.clone() for name, tensor in peft.state_dict().items()}
    for call in (
        lambda: GuidedDecoder(own, {"r": peft}),
        lambda: GuidedDecoder(peft, {"reference": peft.get_base_model()}),
        lambda: decoder.generate(PROMPTS, max_new_tokens=2),
    ):
        with pytest.raises(UnsupportedAdapterError, match=r"merge_adapter\(\) merged into its layers") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert_streams_are(GuidedDecoder(base, {"r": peft}), [base, adapted], tolerance=0.1)
    layers = [part for part in peft.modules() if hasattr(part, "merged_adapters")]
    assert layers and all(layer.merged_adapters == ["default"] for layer in layers)
    assert all(torch.equal(tensor, before[name]) for name, tensor in peft.state_dict().items())
