"""What a batch takes beside its cache, by hand for an 8B Llama, and where: by part and by device."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM

from genarm import CacheMemoryError, GuidedDecoder
from genarm.engine import memory
from genarm.models.causal import CausalModel
from genarm.models.causal import make_model as stream_model
from genarm.models.footprint import fused_pass_bytes, mask_bytes, module_pass_bytes
from genarm.models.fused.backbone import FusedBackbone
from genarm.models.fused.streams import StreamLora
from genarm.models.hf.session import HFBackbone

CPU, FAR = torch.device("cpu"), torch.device("cuda:1")
MIB = 2**20
EIGHT = LlamaConfig(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    vocab_size=128256, dtype=torch.bfloat16,
)  # fmt: skip


class Live(TorchDispatchMode):
    """The most bytes of tensors that lived at once, of those made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            one.untyped_storage()._cdata for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)
        }
        out = operation(*args, **(kwargs or {}))
        for one in tree_flatten(out)[0]:
            storage = one.untyped_storage() if isinstance(one, torch.Tensor) else None
            if storage is None or storage._cdata in given or storage._cdata in self._known:
                continue
            self._known[storage._cdata] = storage.nbytes()
            weakref.finalize(storage, self._drop, storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
        return out

    def _drop(self, key: int) -> None:
        self.now -= self._known.pop(key)


@pytest.fixture(scope="module")
def eight() -> FusedBackbone:
    """An 8B Llama's shapes, without memory."""
    with torch.device("meta"):
        module = LlamaForCausalLM(EIGHT).to(torch.bfloat16)
    return FusedBackbone([CausalModel("base", lambda: module)] * 2, [0, 1], [StreamLora(), StreamLora()])


def test_an_8b_model_by_hand(eight: FusedBackbone) -> None:
    assert fused_pass_bytes(8192, 4096, 4096, 28672, 14336, 2) == 928 * MIB
    assert module_pass_bytes(8192, EIGHT, 2) == 8192 * (5 * 4096 + 3 * 14336) * 2 == 992 * MIB
    assert mask_bytes(4, 1024, 2) == 8 * MIB
    assert eight.prompt_bytes(4, 1024) == eight.prompt_bytes(64, 4096) == 928 * MIB, "of at most 8,192 tokens"
    assert eight.prompt_bytes(1, 512) == 116 * MIB, "of 2 streams of 512"
    device = eight.weights.parts.head.weight.device
    (need,) = memory.needs([eight], memory.Size(4, 1024, 1000, captured=True), device).values()
    assert need.cache == 2 * 4 * 1024 * 128 * 1024, "128 KiB per token of a stream"
    assert need.passes == 8000 * 59392 * 2
    logits, drawn = 2 * 4 * 128256 * 2, 4 * 4 * 128256 * 4
    assert need.logits == 2 * logits + drawn
    assert need.graphs == 2 * 4 * 59392 * 2 + logits + 32 * MIB + drawn
    assert need.total == need.cache + need.passes + need.logits + need.graphs


@pytest.mark.parametrize("engine", ["auto", "hf"])
def test_what_lives_in_a_pass_is_what_is_said(engine: Any) -> None:
    """In an 8B model's proportions, a sixteenth as wide."""
    config = LlamaConfig(
        hidden_size=256, intermediate_size=896, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=2,
        vocab_size=97,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    backbone = GuidedDecoder(model, engine=engine).engine.backbones[0]
    prompts = [random_prompts([500], seed=1)]
    session = backbone.session(1, 600)
    session.prefill(prompts)
    with Live() as live:
        session.prefill(prompts)
    assert 0.9 * live.peak < backbone.prompt_bytes(1, 500) < 1.25 * live.peak


def run_on(parts: Any, device: torch.device) -> None:
    """As accelerate's hooks say it."""
    for part in parts:
        part._hf_hook = SimpleNamespace(execution_device=device)


def test_a_model_on_several_devices_is_checked_on_each(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama", seed=1, layers=3)
    run_on(model.model.layers[1:], FAR)
    sharded = HFBackbone(stream_model("m", model), 0)
    beside = HFBackbone(stream_model("r", make_model("llama", seed=2)), 1)
    whole, own = sharded.cache_bytes(2, 50), beside.cache_bytes(2, 50)
    assert sharded.cache_places(2, 50) == {CPU: whole // 3, FAR: whole * 2 // 3}
    size = memory.Size(2, 50, 40)
    found = memory.needs([sharded, beside], size, CPU)
    assert {place: need.cache for place, need in found.items()} == {CPU: whole // 3 + own, FAR: whole * 2 // 3}
    assert found[FAR].passes == sharded.prompt_bytes(2, 40) and found[FAR].logits == 2 * memory.logit_bytes(sharded, 2)
    free = {place: int(need.total / memory.SHARE) + 1 for place, need in found.items()}
    monkeypatch.setattr(memory, "free_bytes", lambda device: free[device])
    memory.check_fit([sharded, beside], size, CPU)
    for short in (CPU, FAR):
        free[short] -= 3
        with pytest.raises(
            CacheMemoryError, match=rf"take {found[short].total} bytes on {short} \({found[short].cache} "
        ):
            memory.check_fit([sharded, beside], size, CPU, lambda: 10**9 * (short == FAR))  # noqa: B023
        free[short] += 3
    free[FAR] = 0
    assert memory.largest_batch([sharded, beside], 50, CPU) == 1


def test_every_backbone_is_checked_on_its_own_device() -> None:
    near = HFBackbone(stream_model("a", make_model("llama", seed=1)), 0)
    far = HFBackbone(stream_model("b", make_model("gpt2", seed=2)), 1)
    run_on([far.model.module, *far.model.module.transformer.h], FAR)
    found = memory.needs([near, far], memory.Size(1, 20, 10), CPU)
    assert {place: need.cache for place, need in found.items()} == {
        CPU: near.cache_bytes(1, 20), FAR: far.cache_bytes(1, 20)
    }  # fmt: skip


def test_a_quantised_models_cache_is_of_the_dtype_it_computes_in() -> None:
    model = make_model("llama", seed=1).to(torch.bfloat16)
    plain = HFBackbone(stream_model("m", model), 0).cache_bytes(2, 30)
    packed = nn.Parameter(torch.zeros(8, dtype=torch.uint8), requires_grad=False)
    model.model.embed_tokens.weight = packed  # the first parameter there is
    assert next(model.parameters()).dtype == torch.uint8
    assert HFBackbone(stream_model("m", model), 0).cache_bytes(2, 30) == plain > 0


def test_a_padded_batch_is_read_at_once_under_a_mask() -> None:
    """BLOOM's ALiBi; and a model that makes the logits of every token, wanted or not."""
    backbone = HFBackbone(
        stream_model("m", BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=97))), 0
    )
    config, static = backbone.model.config, HFBackbone(stream_model("m", make_model("gpt2", seed=1)), 0)
    assert backbone.kind == "hf-padded" and static.kind == "hf"
    tokens = 10 * 2000
    every = 0 if "logits_to_keep" in backbone.model.accepts else tokens * backbone.vocab_size * 4
    expected = module_pass_bytes(tokens, config, 4) + mask_bytes(10, 2000, 4) + every
    assert backbone.prompt_bytes(10, 2000) == expected
    assert static.prompt_bytes(10, 2000) == module_pass_bytes(8192, static.model.config, 4)
