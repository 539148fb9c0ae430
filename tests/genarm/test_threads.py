"""Calls of several threads at once, on one decoder and on decoders that share a module: each comes to what it is alone,
and the module is left as it was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from families import make_model, random_prompts, save_adapter
from fused_cases import LORA, peft_of
from peft import LoraConfig
from recorded import record_on_cpu

import genarm
from genarm import GuidedDecoder

PROMPTS = random_prompts([6, 11, 3], seed=1)
OPTIONS: dict[str, Any] = {"max_new_tokens": 3, "temperature": 0.0, "eos_token_id": []}
ROUNDS = 6
Call = Callable[[], Any]


@pytest.fixture(autouse=True)
def quick_turns() -> Iterator[None]:
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def wrong_ones(calls: list[Call]) -> list[str]:
    """The calls alone, then each again and again in a thread of its own -> what came out otherwise."""
    expected = [call().tolist() for call in calls]
    start = Barrier(len(calls))

    def repeat(index: int) -> list[str]:
        start.wait()
        found = [calls[index]().tolist() for _ in range(ROUNDS)]
        return [f"call {index}" for one in found if one != expected[index]]

    with ThreadPoolExecutor(len(calls)) as pool:
        return [wrong for own in pool.map(repeat, range(len(calls))) for wrong in own]


def call(decoder: GuidedDecoder, rows: slice, **options: Any) -> Call:
    return lambda: decoder.generate(PROMPTS[rows], **OPTIONS | options).sequences


@pytest.mark.filterwarnings("ignore:another call on this decoder")
@pytest.mark.parametrize("engine", ["hf", "eager", "auto"])
def test_two_threads_on_one_decoder(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "auto":
        record_on_cpu(monkeypatch)
    base = make_model("llama", seed=1).train()
    setting = base.config._attn_implementation
    decoder = GuidedDecoder(base, {"a": save_adapter(base, "llama", tmp_path / "a", seed=4)}, engine=engine)
    calls = [call(decoder, slice(2), weights=[2.0]), call(decoder, slice(1, 3), weights=[-1.0])]
    assert not wrong_ones(calls)
    assert base.config._attn_implementation == setting and all(part.training for part in base.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in base.modules())


def test_two_decoders_on_one_module_by_different_paths(tmp_path: Path) -> None:
    """The fused decoder must not take what transformers' pass does for its length for the caller's own change."""
    reward = peft_of(make_model("llama", seed=1), LoraConfig(**LORA))
    base, folder = reward.get_base_model(), save_adapter(make_model("llama", seed=1), "llama", tmp_path / "a", seed=4)
    decoders = [GuidedDecoder(base, {"a": reward, "b": folder}, engine=engine) for engine in ("hf", "auto")]
    backbones = list(decoders[1].engine.backbones)
    assert not wrong_ones([call(decoder, slice(2), weights=[1.5, -0.5]) for decoder in decoders])
    assert decoders[1].engine.backbones == backbones and backbones[0].kind == "fused"


def test_a_decoder_and_the_drop_in(tmp_path: Path) -> None:
    base = make_model("gpt2", seed=1)
    folder = save_adapter(base, "gpt2", tmp_path / "a", seed=4)
    decoder = GuidedDecoder(base, {"a": folder})
    ids = torch.stack(random_prompts([7, 7], seed=2))

    def drop_in() -> Any:
        own: dict[str, Any] = {"custom_generate": genarm.custom_generate, "reward_models": {"a": folder}}
        return base.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, **own)

    plain = lambda: genarm.generate(base, ids, **OPTIONS).sequences  # noqa: E731
    assert not wrong_ones([call(decoder, slice(2), weights=[2.0]), drop_in, plain])


def test_models_may_share_a_configuration() -> None:
    one = make_model("llama", seed=1)
    other = type(one)(one.config)
    decoders = [GuidedDecoder(model, engine="hf") for model in (one, other)]
    setting = one.config._attn_implementation
    assert not wrong_ones([call(decoder, slice(3)) for decoder in decoders])
    assert one.config._attn_implementation == setting


def test_a_callers_own_pass_beside_ours_has_no_adapter(tmp_path: Path) -> None:
    """In another thread, while a pass with adapters is on its way."""
    base = make_model("gpt2", seed=1)
    decoder = GuidedDecoder(base, {"a": save_adapter(base, "gpt2", tmp_path / "a", seed=4)}, engine="hf")
    layer, states = base.transformer.h[0].attn.c_attn, torch.randn(1, 3, 32)
    expected, found = layer(states), []
    with ThreadPoolExecutor(1) as pool:
        handle = base.transformer.ln_f.register_forward_pre_hook(
            lambda *_: found.append(pool.submit(layer, states).result())
        )
        decoder.generate(PROMPTS[:1], **OPTIONS)
        handle.remove()
    assert len(found) == 6 and all(torch.equal(one, expected) for one in found)


@pytest.mark.filterwarnings("ignore:another call on this decoder")
@pytest.mark.parametrize("engine", ["hf", "auto"])
def test_a_decoder_is_released_while_another_thread_uses_it(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record_on_cpu(monkeypatch)
    decoder = GuidedDecoder(make_model("llama", seed=1), {"r": make_model("qwen3", seed=2, hidden=16)}, engine=engine)

    def release() -> torch.Tensor:
        decoder.release()
        return torch.zeros(1)

    assert not wrong_ones([call(decoder, slice(3)), release, release])
    decoder.release()
    assert decoder.engine._captured.held_bytes() == 0
