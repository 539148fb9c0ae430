"""Every stream of the fused decoder is its model's own forward pass: families, adapters, prompts, chunks, dtypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import LLAMA_LINEARS, random_prompts, save_adapter, with_adapter
from fused_cases import (
    VARIETIES,
    assert_streams_are,
    build,
    continued,
    kinds,
    plain_logits,
    stream_logits,
    untouched,
)
from peft import LoraConfig, PeftModel, get_peft_model
from sessions import decode
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from genarm import GuidedDecoder
from genarm.models.fused import session as session_module

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning:peft.*"), pytest.mark.usefixtures("cpu_path")]

ALL = [*LLAMA_LINEARS, "lm_head"]
RAGGED = [5, 13, 1, 20]


def peft_model(base: Any, adapters: dict[str, int], **settings: Any) -> Any:
    """PEFT adapters by name, each with its seed, put into ``base`` itself."""
    wrapped: Any = None
    for name, seed in adapters.items():
        torch.manual_seed(seed)
        options = {"r": 3 + seed, "lora_alpha": 7, "target_modules": LLAMA_LINEARS, "task_type": "CAUSAL_LM"}
        config = LoraConfig(**{**options, **settings})
        if wrapped is None:
            wrapped = get_peft_model(base, config, adapter_name=name)
        else:
            wrapped.add_adapter(name, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    return wrapped.eval()


@pytest.mark.parametrize("variety", VARIETIES)
def test_every_variety_with_two_adapters(variety: str, tmp_path: Path) -> None:
    """Prompts of their own for the second reward model; 20 steps."""
    base = build(variety)
    folders = [
        save_adapter(base, "llama", tmp_path / "a", seed=4, r=4, target_modules=ALL),
        save_adapter(base, "llama", tmp_path / "b", seed=5, r=20),
    ]
    plain = [untouched(base), *(with_adapter(base, folder) for folder in folders)]
    decoder = GuidedDecoder(base, folders)
    assert kinds(decoder) == ["fused"]
    prompts = random_prompts(RAGGED, seed=1)
    others = random_prompts([2, 30, 7, 5], seed=2)
    assert_streams_are(decoder, plain, [prompts, prompts, others], steps=20)


ADAPTERS: dict[str, dict[str, Any]] = {
    "another rank a module": {"rank_pattern": {"v_proj": 2, "layers.1.mlp.up_proj": 33}, "r": 5},
    "another alpha a module": {"alpha_pattern": {"q_proj": 32, "layers.1.mlp.up_proj": 1}},
    "rank-stabilised": {"use_rslora": True, "r": 6},
    "one of three fused": {"target_modules": ["k_proj"]},
    "the other half of two fused": {"target_modules": ["up_proj", "o_proj"]},
    "one layer": {"layers_to_transform": [1]},
    "the head": {"target_modules": ["lm_head"]},
    "everything": {"target_modules": ALL},
}


@pytest.mark.parametrize("settings", ADAPTERS.values(), ids=ADAPTERS.keys())
def test_adapters_of_every_kind_beside_a_plain_one(settings: dict[str, Any], tmp_path: Path) -> None:
    base = build("llama")
    one = save_adapter(base, "llama", tmp_path / "a", seed=4, **settings)
    other = save_adapter(base, "llama", tmp_path / "b", seed=5, r=2)
    plain = [untouched(base), with_adapter(base, one), with_adapter(base, other)]
    decoder = GuidedDecoder(base, [one, other])
    assert kinds(decoder) == ["fused"]
    assert_streams_are(decoder, plain)


@pytest.mark.parametrize("K", [0, 1, 3])
def test_any_number_of_reward_models(K: int, tmp_path: Path) -> None:
    base = build("qwen3")
    folders = [save_adapter(base, "llama", tmp_path / str(i), seed=4 + i, r=1 + 7 * i) for i in range(K)]
    plain = [untouched(base), *(with_adapter(base, folder) for folder in folders)]
    decoder = GuidedDecoder(base, folders)
    assert kinds(decoder) == ["fused"]
    assert_streams_are(decoder, plain)


def test_reward_models_on_weights_of_their_own(tmp_path: Path) -> None:
    """A backbone each: another family, and an adapter on another base."""
    base, tall, other = build("llama"), build("qwen2", num_hidden_layers=3), build("llama", seed=7)
    adapted = with_adapter(other, save_adapter(other, "llama", tmp_path / "a", seed=4))
    decoder = GuidedDecoder(base, [tall, adapted])
    assert kinds(decoder) == ["fused"] * 3
    assert_streams_are(decoder, [untouched(base), untouched(tall), untouched(adapted)])


def test_a_base_that_is_a_peft_model(tmp_path: Path) -> None:
    """The base with its adapter, the plain model inside it, and a path adapter on top of the base's."""
    plain = build("llama")
    folder = save_adapter(plain, "llama", tmp_path / "a", seed=4, target_modules=["q_proj", "down_proj"])
    base = peft_model(untouched(plain), {"default": 5})
    with_both = peft_model(untouched(plain), {"default": 5})
    with_both.load_adapter(str(folder), adapter_name="top")
    with_both.base_model.set_adapter(["default", "top"])
    reference = base.get_base_model()
    decoder = GuidedDecoder(base, {"inside": reference, "top": folder})
    assert kinds(decoder) == ["fused"]
    assert_streams_are(decoder, [untouched(base), plain, with_both])


def test_a_reward_model_that_is_a_peft_model_on_the_base_s_own_layers() -> None:
    base = build("llama")
    plain = untouched(base)
    reward = peft_model(base, {"default": 5})
    decoder = GuidedDecoder(base, [reward])
    assert kinds(decoder) == ["fused"]
    assert_streams_are(decoder, [plain, untouched(reward)])


def test_several_active_peft_adapters() -> None:
    base = build("llama")
    reward = peft_model(untouched(base), {"one": 1, "two": 5})
    reward.base_model.set_adapter(["one", "two"])
    decoder = GuidedDecoder(base, [reward])
    assert kinds(decoder) == ["fused", "fused"]
    assert_streams_are(decoder, [untouched(base), untouched(reward)])


@pytest.fixture
def tokens_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each prefill pass read."""
    counts: list[int] = []
    own = session_module.FusedSession._read

    def counted(self: Any, chunk: Any) -> Tensor:
        counts.append(len(chunk.ids))
        return own(self, chunk)

    monkeypatch.setattr(session_module.FusedSession, "_read", counted)
    return counts


@pytest.mark.parametrize("most", [1, 7])
@pytest.mark.parametrize("variety", ["llama", "qwen2 with some windows"])
def test_prompts_in_small_chunks(
    variety: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens_read: list[int]
) -> None:
    monkeypatch.setattr(session_module, "CHUNK_TOKENS", most)
    base = build(variety)
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4)
    plain = [untouched(base), with_adapter(base, folder)]
    assert_streams_are(GuidedDecoder(base, [folder]), plain, [random_prompts([3, 16, 1], seed=1)] * 2, steps=2)
    assert sum(tokens_read) == 2 * 20
    assert set(tokens_read[:-1]) == {most}


def test_a_shared_prompt_is_read_once(tmp_path: Path, tokens_read: list[int]) -> None:
    base = build("mistral")
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4)
    plain = [untouched(base), with_adapter(base, folder)]
    long, short, another = random_prompts([17, 4, 17], seed=1)
    prompts = [[short, long, long.clone(), another, short, long], [long, long, long, long, long, long]]
    assert_streams_are(GuidedDecoder(base, [folder]), plain, prompts)
    assert sum(tokens_read) == (4 + 17 + 17) + 17


def test_adapters_on_other_layers_at_other_ranks(tmp_path: Path) -> None:
    base = build("qwen2", num_hidden_layers=4)
    settings: list[dict[str, Any]] = [
        {"layers_to_transform": [1], "r": 17},
        {"layers_to_transform": [1, 2], "target_modules": ["k_proj", "up_proj", "down_proj"]},
    ]
    folders = [save_adapter(base, "llama", tmp_path / str(i), seed=i, **own) for i, own in enumerate(settings)]
    plain = [untouched(base), *(with_adapter(base, folder) for folder in folders)]
    decoder = GuidedDecoder(base, folders)
    assert kinds(decoder) == ["fused"]
    assert_streams_are(decoder, plain)


def test_a_shared_prompt_is_copied_a_layer_at_a_time() -> None:
    """No tensor on the way is as large as the copies of all layers, which are most of the cache."""
    (backbone,) = GuidedDecoder(build("llama", num_hidden_layers=12), []).engine.backbones
    session = backbone.session(8, 256)
    sizes: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            sizes.append(out.numel() if func.overloadpacket.__name__ == "index_select" else 0)
            return out

    prompts = random_prompts([250], seed=1) * 8
    with Sizes():
        session.prefill([prompts])
    assert session.cache[0].numel() / 2 < max(sizes) <= session.cache[0].numel()


def test_a_session_reads_another_batch_after_the_first(tmp_path: Path) -> None:
    """What the first left in the cache shows nowhere."""
    base = build("llama")
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4)
    plain = [untouched(base), with_adapter(base, folder)]
    (backbone,) = GuidedDecoder(base, [folder]).engine.backbones
    session = backbone.session(2, 40)
    for seed, lengths in enumerate([[30, 9], [3, 12], [12, 12]]):
        prompts = random_prompts(lengths, seed=seed)
        logits = session.prefill([prompts, prompts])
        rows = continued(prompts, 3)
        for step in range(4):
            for model, own in zip(plain, logits, strict=True):
                torch.testing.assert_close(own, plain_logits(model, prompts, 3)[step], atol=1e-4, rtol=0)
            if step < 3:
                logits = decode(session, torch.stack([row[len(row) - 3 + step] for row in rows]))


@pytest.mark.parametrize("variety", ["llama", "qwen3", "qwen2"])
def test_bfloat16_is_as_near_the_truth_as_transformers_own(variety: str, tmp_path: Path) -> None:
    """The root mean square error against float32 with the same rounded weights, over all logits."""
    base = build(variety, hidden_size=128, intermediate_size=256).to(torch.bfloat16)
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4)
    theirs = [untouched(base), with_adapter(base, folder)]
    exact = [untouched(model).float() for model in theirs]
    decoder = GuidedDecoder(base, [folder])
    assert kinds(decoder) == ["fused"]
    prompts = random_prompts(RAGGED, seed=1)
    found = stream_logits(decoder, [prompts] * 2, steps=10)
    for own, their, truth in zip(found, theirs, exact, strict=True):
        assert own.dtype == torch.bfloat16
        expected = plain_logits(truth, prompts, 10)

        def error(logits: Tensor, expected: Tensor = expected) -> float:
            return float((logits.float() - expected).square().mean().sqrt())

        assert error(own) <= error(plain_logits(their, prompts, 10)) * 1.15 + 1e-4


@pytest.mark.parametrize("modes", [(True, False, False), (False, True, False), (False, False, True)])
def test_inference_mode_may_come_and_go(modes: tuple[bool, bool, bool], tmp_path: Path) -> None:
    """And afterwards the module can still be trained."""
    base = build("llama")
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4)
    plain = [untouched(base), with_adapter(base, folder)]
    prompts = random_prompts([5, 13], seed=1)
    with torch.inference_mode(modes[0]):
        (backbone,) = GuidedDecoder(base, [folder]).engine.backbones
    with torch.inference_mode(modes[1]):
        session = backbone.session(2, 20)
        session.prefill([prompts[::-1]] * 2)
    with torch.inference_mode(modes[2]):
        session.prefill([prompts] * 2)
    logits = decode(session, torch.tensor([9, 9]))
    for model, own in zip(plain, logits, strict=True):
        for row, prompt in zip(own, prompts, strict=True):
            with torch.no_grad():
                expected = model(input_ids=torch.cat([prompt, torch.tensor([9])])[None]).logits[0, -1]
            torch.testing.assert_close(row, expected, atol=1e-4, rtol=0)
    base.train()(input_ids=prompts[0][None], labels=prompts[0][None]).loss.backward()
    assert all(parameter.grad is not None for parameter in base.parameters())


def test_autocast_does_not_reach_the_model(tmp_path: Path) -> None:
    base = build("llama")
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4, target_modules=ALL)
    plain = [untouched(base), with_adapter(base, folder)]
    decoder = GuidedDecoder(base, [folder])
    prompts = random_prompts([5, 13], seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = stream_logits(decoder, [prompts] * 2, steps=2)
    for model, own in zip(plain, found, strict=True):
        torch.testing.assert_close(own, plain_logits(model, prompts, 2), atol=1e-4, rtol=0)


def test_a_model_in_training_mode_decodes_without_dropout_and_stays_in_it(tmp_path: Path) -> None:
    base = build("llama", attention_dropout=0.5)
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4, lora_dropout=0.5)
    plain = [untouched(base), with_adapter(base, folder)]
    base.train()
    reward = PeftModel.from_pretrained(untouched(base), str(folder)).train()
    assert_streams_are(GuidedDecoder(base, [folder, reward]), [*plain, plain[1]])
    assert base.training
    assert reward.training


def test_layers_may_have_mlps_of_other_widths() -> None:
    base, narrow, wide = build("llama"), build("llama", intermediate_size=16), build("llama", intermediate_size=80)
    for other in (narrow, wide):
        base.model.layers[1].mlp = other.model.layers[1].mlp
        decoder = GuidedDecoder(base)
        assert kinds(decoder) == ["fused"]
        assert_streams_are(decoder, [untouched(base)], [random_prompts(RAGGED, seed=1)], steps=4)


def test_a_token_beyond_the_cache_is_an_error() -> None:
    decoder = GuidedDecoder(build("llama"))
    session = decoder.engine.backbones[0].session(2, 6)
    session.prefill([random_prompts([5, 3], seed=1)])
    decode(session, torch.tensor([4, 4]))
    with pytest.raises(IndexError):
        decode(session, torch.tensor([4, 4]))
