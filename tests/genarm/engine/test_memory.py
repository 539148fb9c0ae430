"""The bytes of a batch: those that are allocated, said before they are, with a decoder that goes on working."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from recorded import record_on_cpu
from woken_cases import mixed

from genarm import CacheMemoryError, GuidedDecoder, InvalidArgumentError
from genarm.engine import memory
from genarm.models.backbone import Backbone
from genarm.models.fused.backbone import FusedBackbone
from genarm.models.fused.session import FusedSession
from genarm.models.hf.session import HFSession

PROMPTS = random_prompts([6, 11, 3, 40, 2], seed=1)
OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "seed": 3, "eos_token_id": []}


def make_decoder(**settings: Any) -> GuidedDecoder:
    rewards = {"a": make_model("llama", seed=2, hidden=16), "b": make_model("gpt2", seed=3)}
    return GuidedDecoder(make_model("llama", seed=1), rewards, **settings)


def allocated(backbone: Backbone, batch: int, length: int) -> int:
    """Bytes of a session's keys and values once it has read prompts."""
    session = backbone.session(batch, length)
    session.prefill([PROMPTS[:batch] for _ in backbone.streams])
    if isinstance(session, FusedSession):
        return session.cache.untyped_storage().nbytes()
    assert isinstance(session, HFSession)
    return sum(buffer.untyped_storage().nbytes() for pair in session._cache.buffers.values() for buffer in pair)


@pytest.mark.parametrize("engine", ["auto", "hf"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gpt2", "gemma3"])
def test_as_many_bytes_are_allocated_as_said(family: str, engine: Any) -> None:
    base = make_model(family, seed=1)
    for dtype in (torch.float32, torch.bfloat16):
        decoder = GuidedDecoder(base.to(dtype), {"r": base}, engine=engine)
        for backbone in decoder.engine.backbones:
            for batch, length in ((1, 20), (3, 50)):
                assert allocated(backbone, batch, length) == memory.cache_bytes([backbone], batch, length) > 0


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """What a device has free: set it."""
    found: dict[str, int | None] = {"bytes": None}
    monkeypatch.setattr(memory, "free_bytes", lambda _device: found["bytes"])
    return found


@pytest.fixture
def cache_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing but the cache takes memory."""
    monkeypatch.setattr(FusedBackbone, "_pass_bytes", lambda *_: 0)
    monkeypatch.setattr(memory, "logit_bytes", lambda *_: 0)
    monkeypatch.setattr(memory, "draw_bytes", lambda *_: 0)
    monkeypatch.setattr(memory, "WORKSPACE", 0)


def needed(decoder: GuidedDecoder, size: memory.Size) -> memory.Need:
    (need,) = memory.needs(decoder.engine.backbones, size, decoder.device).values()
    return need


def count_sessions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    own = FusedSession.__init__

    def init(self: FusedSession, *args: Any, **kwargs: Any) -> None:
        made.append(1)
        own(self, *args, **kwargs)

    monkeypatch.setattr(FusedSession, "__init__", init)
    return made


@pytest.mark.parametrize("recorded", [False, True])
def test_what_does_not_fit_is_said_before_anything_is_allocated(
    recorded: bool, free: dict[str, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a call in chunks too, whose last one is the largest: none of them runs."""
    if recorded:
        record_on_cpu(monkeypatch)
        monkeypatch.setattr(memory, "SHORTEST", 1)
    rewards = {"a": make_model("llama", seed=2, hidden=16)}
    decoder = GuidedDecoder(make_model("llama", seed=1), rewards, max_batch_size=2, max_length=60)
    expected = decoder.generate(PROMPTS[:2], **OPTIONS)
    made = count_sessions(monkeypatch)
    length = 61 if recorded else 40 + 6 + 1  # a captured cache is rounded up, to its limit at most
    need = needed(decoder, memory.Size(2, length, 40, recorded))
    assert need.cache == memory.cache_bytes(decoder.engine.backbones, 2, length)
    if recorded:  # what is held already is not needed once more
        decoder.generate(PROMPTS, **OPTIONS)
        free["bytes"] = int((need.total - need.cache) / memory.SHARE) + 1
        decoder.generate(PROMPTS, **OPTIONS)
        decoder.engine._captured.give_up()
    free["bytes"] = int(need.total / memory.SHARE) - 1
    made.clear()
    with pytest.raises(CacheMemoryError) as caught:
        decoder.generate(PROMPTS, **OPTIONS)
    text = str(caught.value)
    assert f"2 sequences of {length} tokens in 2 streams take {need.total} bytes on cpu ({need.cache} for the" in text
    assert f"cache, {need.passes} for passes over prompts, {need.logits} for logits" in text
    assert (f"{need.graphs} for CUDA graphs" in text) == recorded and f", and {free['bytes']} are free on cpu" in text
    assert "or max_new_tokens (with particles, their number), or free some memory" in text and "\n" not in text
    assert isinstance(caught.value, MemoryError) and not made
    found = decoder.generate(PROMPTS[:2], **OPTIONS)
    assert torch.equal(found.sequences, expected.sequences)


@pytest.mark.usefixtures("cache_alone")
def test_a_captured_cache_grows_as_far_as_it_fits(free: dict[str, int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    record_on_cpu(monkeypatch)
    monkeypatch.setattr(memory, "SHORTEST", 16)
    decoder = GuidedDecoder(make_model("llama", seed=1), max_batch_size=8, max_length=400)
    one = memory.cache_bytes(decoder.engine.backbones, 1, 16)
    free["bytes"] = int(8 * one / memory.SHARE) + 1
    sizes = []
    for prompts, tokens in ((PROMPTS[:1], 5), (PROMPTS[:3], 3), (PROMPTS[3:4], 60), (PROMPTS[:3], 3), (PROMPTS[:5], 9)):
        try:
            decoder.generate(prompts, **OPTIONS | {"max_new_tokens": tokens})
        except CacheMemoryError as error:
            assert "8 sequences of 64 tokens" in str(error)
        held = decoder.engine._captured.held_bytes()
        sizes.append(held // one)
        free["bytes"] = int((8 * one - held) / memory.SHARE) + 1
    assert sizes == [1, 4, 8, 4, 4], "one row of 16 tokens, four, one of 128, four again, and too many"


@pytest.mark.usefixtures("cache_alone")
def test_idle_caches_of_other_decoders_make_room(free: dict[str, int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    record_on_cpu(monkeypatch)
    base = make_model("llama", seed=1)
    first, second = (GuidedDecoder(base, max_batch_size=None, max_length=None) for _ in range(2))
    need = memory.cache_bytes(first.engine.backbones, 1, 512)

    def left(_device: torch.device) -> int:
        held = sum(decoder.engine._captured.held_bytes() for decoder in (first, second))
        return int((1.5 * need - held) / memory.SHARE)

    monkeypatch.setattr(memory, "free_bytes", left)
    expected = first.generate(PROMPTS[:1], **OPTIONS)
    assert torch.equal(second.generate(PROMPTS[:1], **OPTIONS).sequences, expected.sequences)
    assert (first.engine._captured.held_bytes(), second.engine._captured.held_bytes()) == (0, need)
    steps = second.stream(PROMPTS[:1], **OPTIONS)
    next(steps)
    with pytest.raises(CacheMemoryError):
        first.generate(PROMPTS[:1], **OPTIONS)
    assert sum(len(step.tokens[0]) for step in steps) == 5, "a cache in use is not touched"


def test_auto_takes_what_fits(free: dict[str, int | None]) -> None:
    decoder = make_decoder()
    for fitting, more, batch in ((1, 0.5, 1), (1, 1.1, 1), (2, 1.1, 2), (4, 1.9, 4), (8, 1.1, 8), (256, 9, 256)):
        total = needed(decoder, memory.Size(fitting, 101, 100)).total
        free["bytes"] = int(more * total / memory.AUTO_SHARE)
        decoder = make_decoder(max_batch_size="auto", max_length=100)
        assert decoder.max_batch_size == batch
        if batch < 9 and more > 1:
            free["bytes"] = int(0.9 * more * total / memory.AUTO_SHARE)  # less than when it was made
            assert len(decoder.generate(random_prompts([94] * batch), **OPTIONS).tokens) == batch
    free["bytes"] = None
    assert make_decoder(max_batch_size="auto", max_length=100).max_batch_size == 1


@pytest.mark.usefixtures("native_path", "cache_alone")
def test_auto_decodes_more_at_once_where_prompts_are_held_once(free: dict[str, int | None]) -> None:
    """Memory for two whole texts and a half: for a prompt of 300 tokens and 16 answers too."""
    base, limit = make_model("llama", seed=1), 400
    text = memory.cache_bytes(GuidedDecoder(base).engine.backbones, 1, limit + 1)
    free["bytes"] = int(2.5 * text / memory.AUTO_SHARE)
    decoder = GuidedDecoder(base, max_batch_size="auto", max_length=limit)
    assert decoder.max_batch_size == 2
    one = decoder.generate(random_prompts([300]), num_return_sequences=16, **OPTIONS)
    assert (one.stats.steps, one.stats.row_steps) == (6, 16 * 6)
    four = decoder.generate(random_prompts([300] * 4), num_return_sequences=4, **OPTIONS)
    assert four.stats.steps > 6, "four prompts do not fit"
    fixed = GuidedDecoder(base, max_batch_size=2, max_length=limit)
    assert fixed.generate(random_prompts([300]), num_return_sequences=16, **OPTIONS).stats.steps > 6
    free["bytes"] = int((300 + 16 * 7) * text / (limit + 1) / memory.AUTO_SHARE) - 1
    assert decoder.generate(random_prompts([300]), num_return_sequences=16, **OPTIONS).stats.steps > 6


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
@pytest.mark.usefixtures("cache_alone")
def test_prompts_take_each_others_places_where_their_own_fit(free: dict[str, int | None], tmp_path: Path) -> None:
    """With an activated reward model: room for what its prompts take, not for any prompts at all."""
    base = make_model("llama", seed=1)
    rewards, _ = mixed(base, 1, tmp_path)
    decoder = GuidedDecoder(base, rewards)
    prompts = random_prompts([50, 80, 50, 30], seed=1)
    request = decoder.prepare(prompts, None, **OPTIONS)
    free["bytes"] = None
    own = (2 * 79 + 2 * 2 * 8) * memory.cache_bytes(decoder.engine.backbones, 1, 1) // (2 * 2)
    for spare, fitting in ((1, True), (-1, False)):
        free["bytes"] = int(own / memory.SHARE) + spare
        assert decoder.engine.exchanges(request, 2, [0, 1, 2, 3]) == fitting


def test_auto_counts_what_graphs_take(free: dict[str, int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    record_on_cpu(monkeypatch)
    monkeypatch.setattr(memory, "WORKSPACE", 10**6)
    base = make_model("llama", seed=1)
    need = needed(GuidedDecoder(base), memory.Size(4, 101, 100, captured=True))
    assert need.graphs > 10**6
    for engine, left, batch in (("auto", 0, 4), ("auto", -3, 2), ("eager", -need.graphs, 4)):
        free["bytes"] = int((need.total + left) / memory.AUTO_SHARE) + 1
        decoder = GuidedDecoder(base, max_batch_size="auto", max_length=100, engine=engine)  # type: ignore[arg-type]
        assert decoder.max_batch_size == batch


def test_without_limits_a_call_is_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_model("llama", seed=1)
    decoder = GuidedDecoder(base, max_batch_size=None, max_length=None)
    assert decoder.max_length > base.config.max_position_embeddings
    made = count_sessions(monkeypatch)
    found = decoder.generate(PROMPTS * 4, **OPTIONS)
    assert len(made) == 1
    assert torch.equal(
        found.sequences, GuidedDecoder(base, max_batch_size=3).generate(PROMPTS * 4, **OPTIONS).sequences
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_batch_size": 0}, "max_batch_size is 0: pass an integer of at least 1, 'auto', or None"),
        ({"max_batch_size": "all"}, "max_batch_size is 'all': pass an integer of at least 1, 'auto', or None"),
        ({"max_batch_size": True}, "max_batch_size is True"),
        ({"max_length": 2.0}, "max_length is 2.0: pass an integer of at least 1, or None"),
        ({"max_length": "auto"}, "max_length is 'auto'"),
        ({"engine": "graphs"}, "engine is 'graphs': pass one of 'auto', 'eager', 'hf'"),
    ],
)
def test_limits_are_checked(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        make_decoder(**settings)
    assert words in str(caught.value)


def test_this_machine_says_what_is_free() -> None:
    free = memory.free_bytes(torch.device("cpu"))
    assert free is None or free > 2**20
