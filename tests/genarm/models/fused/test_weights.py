"""One copy of the weights: a module's parameters are views of what the fused decoders on it read, and stay its own."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from families import random_prompts, save_adapter, with_adapter
from fused_cases import assert_streams_are, build, kinds, plain_logits, stream_logits, untouched
from held import held_bytes, size, storages
from peft import PeftModel
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from genarm import GuidedDecoder
from genarm.models.fused.linear import FusedLinear
from genarm.models.fused.weights import fused_weights

PROMPTS = random_prompts([5, 9], seed=1)


@pytest.fixture
def base() -> Any:
    return build("llama with biases")


@pytest.fixture
def folders(base: Any, tmp_path: Path) -> list[Path]:
    return [save_adapter(base, "llama", tmp_path / str(i), seed=4 + i, r=4 + 15 * i) for i in range(3)]


def test_parameters_are_views_of_what_a_session_reads(base: Any, folders: list[Path]) -> None:
    before = {name: (id(parameter), parameter.clone()) for name, parameter in base.named_parameters()}
    decoder = GuidedDecoder(base, folders)
    (backbone,) = decoder.engine.backbones
    layers = backbone.session(1, 8)._tensors.layers
    for layer, own in zip(base.model.layers, layers, strict=True):
        for fused, linears in (
            (own.qkv, [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]),
            (own.out, [layer.self_attn.o_proj]),
            (own.gate_up, [layer.mlp.gate_proj, layer.mlp.up_proj]),
            (own.down, [layer.mlp.down_proj]),
        ):
            start = 0
            for linear in linears:
                for whole, part in ((fused.weight, linear.weight), (fused.bias, linear.bias)):
                    assert whole[start].data_ptr() == part.data_ptr()
                start += linear.out_features
            assert fused.weight.shape[0] == start + 3 * len(linears) * 48
    for name, parameter in base.named_parameters():
        assert id(parameter) == before[name][0]
        assert parameter.requires_grad
        assert isinstance(parameter, nn.Parameter)
        assert torch.equal(parameter, before[name][1])


def test_one_copy_stays(folders: list[Path]) -> None:
    """Of the weights, and two of each adapter: as it was read, and in the rows."""
    base = build("llama", hidden_size=256, intermediate_size=512)
    folder = save_adapter(base, "llama", folders[0].parent / "large", seed=3, r=16)
    weights = held_bytes(base)
    decoder = GuidedDecoder(base, [folder])
    assert decoder.models[1].adapter is not None
    adapter = size(tensor for layer in decoder.models[1].adapter.layers.values() for tensor in layer[:2])
    held = held_bytes(base, decoder, fused_weights(base))
    assert held == weights + 2 * adapter
    again = GuidedDecoder(base, [folder])
    assert held_bytes(base, decoder, again, fused_weights(base)) == held + adapter, "as it was read again"
    (backbone,) = decoder.engine.backbones
    session = backbone.session(1, 8)
    cache = size([session.cache, session.cos, session.sin])
    extra = held_bytes(base, decoder, fused_weights(base), session) - held
    assert extra < cache + 3 * adapter, "on a CPU a session has the adapters' B as torch's products take them"


@pytest.mark.parametrize("K", [0, 1])
def test_while_the_weights_are_fused_there_is_one_layer_more(
    K: int, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = build("llama", num_hidden_layers=10, hidden_size=64)
    folder = save_adapter(base, "llama", folders[0].parent / "large", seed=3, r=16)
    before, layer = held_bytes(base), size(base.model.layers[0].parameters())
    most = 0
    own, new = FusedLinear._move_to, FusedLinear.__init__
    fused: list[FusedLinear] = []

    def noted(self: Any, *args: Any) -> None:
        fused.append(self)
        new(self, *args)

    def measured(self: Any, matrix: Tensor) -> None:
        """When the new matrix is there and the old ones still are."""
        nonlocal most
        most = max(most, held_bytes(base, matrix, fused))
        own(self, matrix)

    monkeypatch.setattr(FusedLinear, "__init__", noted)
    monkeypatch.setattr(FusedLinear, "_move_to", measured)
    decoder = GuidedDecoder(base, [folder] * K)
    adapter = 0
    if K:
        assert decoder.models[1].adapter is not None
        adapter = size(tensor for layer in decoder.models[1].adapter.layers.values() for tensor in layer[:2])
    assert before < most <= before + layer + 2 * adapter


def test_the_module_works_as_before(base: Any, folders: list[Path]) -> None:
    plain = untouched(base)
    decoder = GuidedDecoder(base, folders)
    expected, found = (plain_logits(model, PROMPTS, 3) for model in (plain, base))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert base.state_dict().keys() == plain.state_dict().keys()
    # Trained on, in place, and seen at once.
    ids = PROMPTS[1][None]
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.01) for model in (plain, base)]
    for model, optimizer in zip((plain, base), optimizers, strict=True):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    for one, other in zip(plain.parameters(), base.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert_streams_are(decoder, [untouched(base), *(with_adapter(base, folder) for folder in folders)])


def test_what_is_saved_is_what_was_loaded(base: Any, folders: list[Path], tmp_path: Path) -> None:
    """Files of the same bytes; copies and pickles whose weights are their own."""
    plain = untouched(base)
    plain.save_pretrained(tmp_path / "plain")
    decoder = GuidedDecoder(base, folders)
    base.save_pretrained(tmp_path / "fused")
    first, second = (tmp_path / name / "model.safetensors" for name in ("plain", "fused"))
    assert first.read_bytes() == second.read_bytes()
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "fused").eval()
    stream = io.BytesIO()
    torch.save(base.state_dict(), stream)
    stream.seek(0)
    restored = build("llama with biases", seed=9)
    restored.load_state_dict(torch.load(stream))
    copied, pickled = copy.deepcopy(base), pickle.loads(pickle.dumps(base))
    for model in (loaded, restored, copied, pickled):
        assert not storages(model.parameters()).keys() & storages(base.parameters()).keys()
        torch.testing.assert_close(plain_logits(model, PROMPTS, 1), plain_logits(plain, PROMPTS, 1), atol=1e-6, rtol=0)
        with_own = GuidedDecoder(model, folders)
        assert_streams_are(with_own, [untouched(plain), *(with_adapter(plain, folder) for folder in folders)])
    assert_streams_are(decoder, [plain, *(with_adapter(plain, folder) for folder in folders)])


def test_adapters_inside_the_module_are_read_as_they_are(folders: list[Path]) -> None:
    """Optimisers that write to `.data` leave no trace that a decoder could notice."""
    wrapped = PeftModel.from_pretrained(build("llama with biases"), folders[0]).eval()
    decoder = GuidedDecoder(wrapped)
    assert kinds(decoder) == ["fused"]
    before = stream_logits(decoder, [PROMPTS], 2)[0]
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data += 0.3 * parameter.data.roll(1, 0)
    assert_streams_are(decoder, [wrapped])
    assert not torch.allclose(stream_logits(decoder, [PROMPTS], 2)[0], before, atol=1e-2)


def test_what_leaves_no_trace_is_read_on_request(base: Any, folders: list[Path]) -> None:
    plain = untouched(base)
    decoder = GuidedDecoder(base, folders[:1])
    assert decoder.models[1].adapter is not None
    for down, up, _ in decoder.models[1].adapter.layers.values():
        down.zero_()
        up.zero_()
    decoder.refresh()
    assert_streams_are(decoder, [plain, plain])
