"""The fused decoder on a GPU: its kernels' logits, its captured steps' tokens, and memory that stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import LLAMA_LINEARS, save_adapter, with_adapter
from fused_cases import VARIETIES, assert_streams_are, build, kinds, plain_logits, stream_logits, untouched

from bench.soak import soak
from genarm import GuidedDecoder
from genarm.models.fused.network import Network
from genarm.models.plan import Plan

pytestmark = [
    pytest.mark.device,
    pytest.mark.filterwarnings("ignore::UserWarning:peft.*"),
]
ALL = [*LLAMA_LINEARS, "lm_head"]
PROMPTS = [list(range(3, 3 + length)) for length in (5, 13, 1, 30)]


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def models(variety: str, folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, list[Path]]:
    base = build(variety)
    folders = [
        save_adapter(base, "llama", folder / "a", seed=4, r=4, target_modules=ALL),
        save_adapter(base, "llama", folder / "b", seed=5, r=20),
    ]
    return base.to("cuda", dtype), folders


@pytest.mark.parametrize("variety", VARIETIES)
def test_every_variety_is_transformers_own(variety: str, tmp_path: Path) -> None:
    base, folders = models(variety, tmp_path)
    plain = [untouched(base), *(with_adapter(base, folder) for folder in folders)]
    decoder = GuidedDecoder(base, folders)
    assert kinds(decoder) == ["fused"]
    assert_streams_are(decoder, plain, steps=20, tolerance=1e-3)


@pytest.mark.parametrize("variety", ["llama", "qwen3", "mistral"])
def test_bfloat16_is_as_near_the_truth_as_transformers_own(variety: str, tmp_path: Path) -> None:
    base, folders = models(variety, tmp_path, torch.bfloat16)
    theirs = [untouched(base), *(with_adapter(base, folder) for folder in folders)]
    prompts = [torch.tensor(prompt) for prompt in PROMPTS]
    found = stream_logits(GuidedDecoder(base, folders), [prompts] * 3, steps=10)
    for own, their in zip(found, theirs, strict=True):
        exact = plain_logits(untouched(their).float(), prompts, 10)
        errors = [(logits.float() - exact).square().mean().sqrt() for logits in (own, plain_logits(their, prompts, 10))]
        assert float(errors[0]) <= float(errors[1]) * 1.25 + 1e-4


def test_seven_kernels_per_layer_give_what_nine_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, where the squares of a norm are added in another order, and step after step on the same counters."""
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8, "vocab_size": 1001}
    base = build("llama", num_key_value_heads=4, **sizes).to("cuda", torch.bfloat16)
    folders = [
        save_adapter(base, "llama", tmp_path / "a", seed=4, r=4, target_modules=LLAMA_LINEARS),
        save_adapter(base, "llama", tmp_path / "b", seed=5, r=20),
    ]
    decoders = [GuidedDecoder(model, folders) for model in (untouched(base).float(), base)]
    exact, session = (decoder.engine.backbones[0].session(4, 8) for decoder in decoders)
    assert session._network.is_narrow(session._tensors, 12)

    def logits(session: Any) -> torch.Tensor:
        session.truncate([0] * 4)
        tokens = torch.arange(12, device=session.lengths.device).view(3, 4, 1) * 80
        return torch.stack([torch.stack(session.append(step)) for step in tokens]).float()

    narrow, again, truth = logits(session), logits(session), logits(exact)
    monkeypatch.setattr(Network, "is_narrow", lambda *_: False)
    wide = logits(session)
    assert torch.equal(narrow, again)
    assert float((narrow - wide).square().mean()) < 1.5**2 * float((wide - truth).square().mean())


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": 30, "top_p": 0.9, "repetition_penalty": 1.1}])
def test_captured_steps_draw_what_eager_ones_and_transformers_draw(options: dict[str, Any], tmp_path: Path) -> None:
    """In float32, with a second model beside: the same tokens from all three, call after call."""
    base, folders = models("qwen3", tmp_path)
    other = build("llama", seed=3).to("cuda")
    captured, eager, theirs = (GuidedDecoder(base, [folders[0], other], max_length=256) for _ in range(3))
    eager.engine.graphs = theirs.engine.graphs = False
    theirs.engine.plan = Plan(theirs.models, fuse=False)
    assert "graphs" in captured.engine.kind
    for seed, prompts in enumerate([PROMPTS, PROMPTS[:1], PROMPTS[1:], PROMPTS]):
        call: dict[str, Any] = {"max_new_tokens": 24, "seed": seed, "eos_token_id": [], **options}
        first, second, third = (decoder.generate(prompts, **call).tokens for decoder in (captured, eager, theirs))
        for one, two, three in zip(first, second, third, strict=True):
            assert torch.equal(one, two)
            assert torch.equal(one, three)
    assert captured.engine.captures == 2, "four and one row; the third call's batch fills the first one's"


def test_a_decoder_made_later_leaves_captured_ones_right(tmp_path: Path) -> None:
    base, folders = models("llama", tmp_path)
    first = GuidedDecoder(base, [folders[0]], max_length=256)
    call: dict[str, Any] = {"max_new_tokens": 12, "seed": 3, "eos_token_id": []}
    before = first.generate(PROMPTS, **call)
    GuidedDecoder(base, [folders[1]], max_length=256).generate(PROMPTS, **call)
    assert torch.equal(first.generate(PROMPTS, **call).sequences, before.sequences)


def test_steps_leave_nothing_behind() -> None:
    result = soak(2000, device="cuda")
    assert abs(result.growth) < 1
    assert result.recaptures == 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NOT RUN: this machine has no second CUDA device")
@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_models_on_another_device_than_the_current_one(engine: Any, tmp_path: Path) -> None:
    base, folders = models("llama", tmp_path)
    options: dict[str, Any] = {"max_new_tokens": 20, "seed": 1, "eos_token_id": []}
    expected = GuidedDecoder(base, folders, engine=engine).generate(PROMPTS, **options)
    found = GuidedDecoder(base.to("cuda:1"), folders, engine=engine).generate(PROMPTS, **options)
    assert [row.tolist() for row in found.tokens] == [row.tolist() for row in expected.tokens]
