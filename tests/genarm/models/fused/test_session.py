"""How the fused decoder reads prompts and tokens: in chunks, shared ones once, in any mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import LLAMA_LINEARS, VOCAB, random_prompts, save_adapter, with_adapter
from fused_cases import (
    assert_streams_are,
    build,
    continued,
    plain_logits,
    stream_logits,
    untouched,
)
from peft import PeftModel
from sessions import decode
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from genarm import GuidedDecoder
from genarm.models.fused import session as session_module

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning:peft.*"), pytest.mark.usefixtures("cpu_path")]

ALL = [*LLAMA_LINEARS, "lm_head"]
RAGGED = [5, 13, 1, 20]


@pytest.fixture
def tokens_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each prefill pass read."""
    counts: list[int] = []
    own = session_module.FusedSession._read

    def counted(self: Any, chunk: Any, *others: Any) -> Tensor:
        counts.append(len(chunk.ids))
        return own(self, chunk, *others)

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


def test_a_token_beyond_the_cache_is_an_error() -> None:
    decoder = GuidedDecoder(build("llama"))
    session = decoder.engine.backbones[0].session(2, 6)
    session.prefill([random_prompts([5, 3], seed=1)])
    decode(session, torch.tensor([4, 4]))
    with pytest.raises(IndexError):
        decode(session, torch.tensor([4, 4]))


@pytest.mark.parametrize("wrong", [-1, VOCAB])
def test_an_id_that_does_not_exist_is_an_error_and_changes_nothing(wrong: int) -> None:
    session = GuidedDecoder(build("llama")).engine.backbones[0].session(2, 9)
    prompts = random_prompts([5, 3], seed=1)
    expected = session.prefill([prompts]), decode(session, torch.tensor([4, 4]))
    with pytest.raises(IndexError, match=f"token id {wrong} is none of the embedding's 0 … {VOCAB - 1}"):
        session.prefill([[prompts[0], torch.tensor([1, wrong])]])
    session.prefill([prompts])
    with pytest.raises(IndexError, match=f"token id {wrong} is none"):
        session.append(torch.tensor([[4], [wrong]]))
    assert torch.equal(decode(session, torch.tensor([4, 4]))[0], expected[1][0])


def test_an_adapter_that_is_not_a_number_stays_in_its_stream(native_path: None, tmp_path: Path) -> None:
    """On the head and elsewhere, whoever else reads the same rows of weights."""
    base = build("llama")
    plain = untouched(base)
    sound = save_adapter(base, "llama", tmp_path / "a", seed=4, target_modules=[*LLAMA_LINEARS, "lm_head"])
    bad = save_adapter(base, "llama", tmp_path / "b", seed=5, target_modules=["q_proj", "lm_head"])
    decoder = GuidedDecoder(base, [sound, bad])
    assert decoder.models[2].adapter is not None
    for down, up, _ in decoder.models[2].adapter.layers.values():
        down.fill_(torch.nan)
        up.fill_(torch.nan)
    decoder.refresh()
    prompts = random_prompts([5, 9], seed=1)
    found = stream_logits(decoder, [prompts] * 3, steps=2)
    for stream, model in enumerate((plain, with_adapter(plain, sound))):
        torch.testing.assert_close(found[stream], plain_logits(model, prompts, 2), atol=1e-4, rtol=0)
    assert bool(found[2].isnan().all())
