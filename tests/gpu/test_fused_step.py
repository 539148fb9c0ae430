"""The fused decoder's step as a GPU runs it, kernel by kernel, interpreted: its logits are transformers' own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from families import LLAMA_LINEARS, random_prompts, save_adapter, with_adapter
from fused_cases import assert_streams_are, build, kinds, plain_logits, stream_logits, untouched

import genarm_kernels
from genarm import GuidedDecoder
from genarm.models.fused import head, network
from genarm.models.fused.network import Network
from genarm_kernels.native import linear

pytestmark = pytest.mark.interpreter
STEPS = 2
SMALL: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "head_dim": 16}
# What a prompt's pass and a step call in each layer, and once. LoRA on the head needs its input, so its norm is apart.
PROMPT = {"add_rms_norm": 2, "skinny_linear": 4, "rotary_store": 1, "swiglu": 1}
ONCE_PER_PROMPT = {"add_rms_norm": 1, "skinny_linear": 1}
STEP = {"normed_linear": 2, "add_linear": 2, "rotary_store": 1, "decode_attention": 1, "swiglu": 1}
ONCE_PER_STEP = {"add_rms_norm": 1, "skinny_linear": 1}


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each operation is called."""
    counts: Counter[str] = Counter()

    def counted(name: str, own: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            counts[name] += 1
            return own(*args, **options)

        return call

    for name in PROMPT | STEP:
        for place in (network, head, linear, genarm_kernels):
            if hasattr(place, name):
                monkeypatch.setattr(place, name, counted(name, getattr(place, name)))
    return counts


@pytest.mark.parametrize(("variety", "layers"), [("llama", 1), ("qwen3 with biases and a tied head", 1)])
def test_a_step_by_the_kernels_is_a_full_forward_pass(
    variety: str, layers: int, tmp_path: Path, launches: Counter[str]
) -> None:
    base = build(variety, num_hidden_layers=layers, **SMALL)
    folders = [
        save_adapter(base, "llama", tmp_path / "a", seed=4, r=4, target_modules=[*LLAMA_LINEARS, "lm_head"]),
        save_adapter(base, "llama", tmp_path / "b", seed=5, r=2, target_modules=["q_proj", "v_proj", "down_proj"]),
    ]
    plain = [untouched(base), *(with_adapter(base, folder) for folder in folders)]
    decoder = GuidedDecoder(base, folders)
    assert kinds(decoder) == ["fused"]
    prompts = random_prompts([2, 5], seed=1)
    assert_streams_are(decoder, plain, [prompts] * 3, steps=STEPS)
    for name in PROMPT | STEP:
        prompt, step = PROMPT.get(name, 0), STEP.get(name, 0)
        once = ONCE_PER_PROMPT.get(name, 0) + STEPS * ONCE_PER_STEP.get(name, 0)
        assert launches[name] == layers * (prompt + STEPS * step) + once, name


def test_few_rows_take_the_narrow_way_with_the_bits_of_the_other(
    tmp_path: Path, launches: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tokens of each row, with biases, heads' norms, two adapters, and an odd vocabulary."""
    base = build("qwen3 with biases and a tied head", num_hidden_layers=1, vocab_size=61, **SMALL)
    folders = [
        save_adapter(base, "llama", tmp_path / "a", seed=4, r=4, target_modules=LLAMA_LINEARS),
        save_adapter(base, "llama", tmp_path / "b", seed=5, r=20, target_modules=["o_proj", "gate_proj"]),
    ]
    (backbone,) = GuidedDecoder(base, folders).engine.backbones
    session, tokens = backbone.session(1, 4), torch.tensor([[3, 60]])
    narrow = session.append(tokens)
    assert launches["add_linear"] == 2 and launches["normed_linear"] == 3, "the head's norm is in its product"
    assert launches["add_rms_norm"] == launches["skinny_linear"] == 0
    assert session.lengths.tolist() == [[2]] * 3
    session.truncate(session.lengths - 2)
    monkeypatch.setattr(Network, "is_narrow", lambda *_: False)
    wide = session.append(tokens)
    assert launches["add_rms_norm"] == 3
    for one, other in zip(narrow, wide, strict=True):
        assert torch.equal(one, other)
        # The sampler loads rows whole, whatever the vocabulary.
        assert one.stride() == other.stride() and one.stride(1) * one.element_size() % 16 == 0


def test_a_step_in_bfloat16_under_a_window(tmp_path: Path) -> None:
    """The interpreter cuts float32 off to bfloat16, an error of up to 1 part in 128 a rounding and always downwards."""
    base = build("mistral", num_hidden_layers=1, **SMALL).to(torch.bfloat16)
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4)
    exact = [untouched(model).float() for model in (base, with_adapter(base, folder))]
    prompts = random_prompts([3, 7], seed=1)
    for own, plain in zip(stream_logits(GuidedDecoder(base, [folder]), [prompts] * 2, STEPS), exact, strict=True):
        expected = plain_logits(plain, prompts, STEPS)
        assert float((own.float() - expected).square().mean()) < 0.03**2 * float(expected.square().mean())
