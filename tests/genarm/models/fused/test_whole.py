"""Prompts that several sequences have in common, held once where no adapter sleeps on them: to the bit what copies
are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from families import random_prompts, save_adapter
from fused_cases import LORA, build, untouched
from torch import Tensor

from genarm import GenerationOutput, GuidedDecoder
from genarm.engine import memory
from genarm.models.fused import shared as shared_module
from genarm.models.fused.backbone import FusedBackbone
from genarm.models.fused.whole import WholePromptSession

pytestmark = pytest.mark.usefixtures("native_path")
FIRST, SECOND, OTHER, SHORT = random_prompts([100, 70, 100, 6], seed=1)
OPTIONS: dict[str, Any] = {"max_new_tokens": 12, "seed": 1, "return_logprobs": True, "eos_token_id": []}
CALLS: dict[str, tuple[list[Any], dict[str, Any], int]] = {
    "best of several": ([FIRST], {"num_return_sequences": 4}, 8),
    "prompts of several lengths": ([FIRST, SECOND, FIRST, SHORT], {}, 8),
    "weights of each row": ([FIRST] * 3, {"weights": [{"r0": 1.0}, {"r1": 2.0}, {}]}, 8),
    "particles": ([FIRST, SECOND], {"particles": 4, "resample_below": 1.0}, 8),
    "places that others take": ([FIRST, SECOND], {"num_return_sequences": 4, "eos_token_id": list(range(3, 20))}, 3),
}


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each session that holds prompts once."""
    rows: list[int] = []
    own = WholePromptSession.__init__

    def init(self: WholePromptSession, *args: Any, **settings: Any) -> None:
        own(self, *args, **settings)
        rows.append(self.streams * self.batch)

    monkeypatch.setattr(WholePromptSession, "__init__", init)
    return rows


def copied(ask: Callable[[], GenerationOutput]) -> GenerationOutput:
    """The same call with a prompt's cache copied for each row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FusedBackbone, "room", lambda *_: None)
        return ask()


def assert_same(found: GenerationOutput, wanted: GenerationOutput) -> None:
    for own, other in zip(found.tokens, wanted.tokens, strict=True):
        assert torch.equal(own, other)
    assert found.logprobs is not None and wanted.logprobs is not None
    assert torch.equal(found.logprobs.nan_to_num(1.0), wanted.logprobs.nan_to_num(1.0))
    assert found.stats.forwarded == wanted.stats.forwarded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("call", CALLS)
def test_the_bits_are_those_of_copies(call: str, dtype: torch.dtype, shared: list[int], tmp_path: Path) -> None:
    """A base with an ordinary adapter, whose prompts are its own, and a reward model of other weights beside."""
    base = build("llama")
    adapter = save_adapter(base, "llama", tmp_path, seed=4, **LORA)
    prompts, options, slots = CALLS[call]
    other = build("qwen3 with some windows", seed=8).to(dtype)
    decoder = GuidedDecoder(base.to(dtype), {"r0": adapter, "r1": other}, max_batch_size=slots)
    found = decoder.generate(prompts, **{**OPTIONS, **options})
    assert shared and len(found.tokens[-1])
    count = len(shared)
    assert_same(found, copied(lambda: decoder.generate(prompts, **{**OPTIONS, **options})))
    assert len(shared) == count


def test_drafts_are_verified_behind_shared_prompts(shared: list[int]) -> None:
    base = build("mistral")
    decoder, draft = GuidedDecoder(base), {"draft": build("llama", seed=1), "gamma": 3}
    asked: dict[str, Any] = {**OPTIONS, "num_return_sequences": 3, "speculate": draft}
    found = decoder.generate([FIRST, SECOND], **asked)
    assert len(shared) == 2 and found.stats.verified
    assert_same(found, copied(lambda: decoder.generate([FIRST, SECOND], **asked)))


def test_streams_that_are_alike_on_prompts_have_one(tmp_path: Path) -> None:
    """An adapter on the head alone leaves the prompt's keys and values the base's, and says something else."""
    base = build("llama")
    head = {**LORA, "target_modules": ["lm_head"]}
    decoder = GuidedDecoder(base, {"r0": save_adapter(untouched(base), "llama", tmp_path, seed=4, **head)})
    (backbone,) = decoder.engine.backbones
    assert isinstance(backbone, FusedBackbone)
    room = backbone.room([[FIRST] * 2] * 2, 2, 5, {})
    assert room is not None and (room.prefixes, room.prompt, room.own) == (1, 100, 5)
    asked: dict[str, Any] = {**OPTIONS, "num_return_sequences": 2}
    assert_same(decoder.generate([FIRST], **asked), copied(lambda: decoder.generate([FIRST], **asked)))


@pytest.mark.parametrize("prompts", [[FIRST], [FIRST, SECOND, OTHER], [SHORT] * 8])
def test_rows_hold_their_own_where_sharing_does_not_pay(prompts: list[Any], shared: list[int]) -> None:
    """One row, prompts that differ, and short ones: the session is the one without prefixes."""
    GuidedDecoder(build("llama")).generate(prompts, **OPTIONS)
    assert not shared


def test_best_of_16_holds_a_long_prompt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache bytes: a prompt of 2,048 tokens, and 16 times what follows it."""
    made: list[int] = []
    monkeypatch.setattr(shared_module, "buffers", partial(_counted, made, shared_module.buffers))
    decoder = GuidedDecoder(build("llama", max_position_embeddings=4096), max_batch_size=16)
    (backbone,) = decoder.engine.backbones
    token = memory.cache_bytes([backbone], 1, 1)
    decoder.generate(random_prompts([2048], seed=1), **{**OPTIONS, "num_return_sequences": 16})
    assert made == [(2048 + 16 * (12 + 1)) * token]


def _counted(made: list[int], own: Any, shapes: Any, like: Tensor, cache: Tensor | None) -> list[Tensor]:
    parts: list[Tensor] = own(shapes, like, cache)
    made.append(sum(one.numel() * one.element_size() for one in parts))
    return parts
