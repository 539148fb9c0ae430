"""Rewarded soups: the average of adapters is that of what they add to the weights, and decodes as that."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from families import LLAMA_LINEARS, assert_streams_are, make_model, save_adapter
from peft import PeftModel

from genarm import GuidedDecoder
from genarm.errors import InvalidArgumentError, UnsupportedAdapterError
from genarm.evaluation.soups import decoder_with, on_the_base, soup
from genarm.models.adapters import read_adapter


@pytest.fixture(scope="module")
def base():
    return make_model("llama", seed=1)


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    """Adapters of different ranks, scalings and layers."""
    place = tmp_path_factory.mktemp("soups")
    return [
        save_adapter(base, "llama", place / "first", seed=1),
        save_adapter(base, "llama", place / "second", seed=2, r=2, lora_alpha=6, target_modules=LLAMA_LINEARS[:3]),
    ]


def averaged(base, folders, shares):
    """A copy of the base whose weights are W + Σ λ_i ΔW_i, each ΔW_i being what merging adapter i by itself adds."""
    found = copy.deepcopy(base)
    with torch.no_grad():
        for folder, share in zip(folders, shares, strict=True):
            merged = PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).merge_and_unload()
            for own, before, after in zip(found.parameters(), base.parameters(), merged.parameters(), strict=True):
                own.add_(share * (after - before))
    return found.eval()


@pytest.mark.parametrize("shares", [(0.25, 0.75), (1.0, 0.0), (1.5, -0.5)])
def test_a_soup_is_the_average_of_what_the_adapters_add(base, folders, shares):
    adapters = [read_adapter(folder) for folder in folders]
    found = soup(adapters, shares, base)
    for name, (down, up, _) in found.layers.items():
        used = [(one.layers, share) for one, share in zip(adapters, shares, strict=True) if share]
        own = [(layers[name], share) for layers, share in used if name in layers]
        expected = sum(share * (layer[1] @ layer[0]) for layer, share in own)
        torch.testing.assert_close(up @ down, expected, atol=1e-6, rtol=1e-5)
        assert down.shape[0] == up.shape[1] == sum(layer[0].shape[0] for layer, _ in own)
    assert set(found.layers) == {name for a, share in zip(adapters, shares, strict=True) if share for name in a.layers}


def test_a_soup_decodes_as_the_model_whose_weights_are_averaged(base, folders):
    decoder = GuidedDecoder(base, {"a": str(folders[0]), "b": make_model("llama", seed=5)})
    both = decoder_with(decoder, "soup", soup([read_adapter(one) for one in folders], (0.25, 0.75), base), 4)
    assert both.reward_names == ("a", "b", "soup") and both.max_batch_size == 4
    first = averaged(base, folders[:1], [1.0])
    assert_streams_are(both, [base, first, make_model("llama", seed=5), averaged(base, folders, (0.25, 0.75))])


def test_biases_are_averaged_too(base, folders):
    first, second = (read_adapter(folder) for folder in folders)
    name = next(iter(second.layers))
    biases = [torch.arange(len(one.layers[name][1])).float() + place for place, one in enumerate((first, second))]
    with_bias = [
        replace(one, layers={**one.layers, name: (*one.layers[name][:2], bias)})
        for one, bias in zip((first, second), biases, strict=True)
    ]
    found = soup(with_bias, (0.5, 2.0), base).layers[name][2]
    torch.testing.assert_close(found, 0.5 * biases[0] + 2.0 * biases[1])


def test_what_cannot_be_averaged_is_refused(base, folders):
    adapters = [read_adapter(folder) for folder in folders]
    for shares in ((1.0,), (0.0, 0.0)):
        with pytest.raises(InvalidArgumentError, match="give one for each"):
            soup(adapters, shares, base)
    with pytest.raises(UnsupportedAdapterError, match="another architecture"):
        soup(adapters, (0.5, 0.5), make_model("llama", hidden=16))
    with pytest.raises(UnsupportedAdapterError, match="'full' is a full model"):
        on_the_base(GuidedDecoder(base, {"full": make_model("llama", seed=3)}))
    own = {"far": make_model("llama", seed=4)}
    with pytest.raises(UnsupportedAdapterError, match="'far' is an adapter on LlamaForCausalLM"):
        on_the_base(GuidedDecoder(base, {"far": str(folders[0])}, reward_bases=own))
