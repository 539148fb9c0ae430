"""How long captured steps, their caches and the weights they read live, and what ends them."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from captured_cases import OPTIONS, PROMPTS, assert_same
from families import make_model, save_adapter
from fused_cases import LORA, peft_of
from peft import LoraConfig
from recorded import record_on_cpu

from genarm import CacheMemoryError, GuidedDecoder
from genarm.engine import graphs, memory
from genarm.engine.run import Run
from genarm.engine.state import State
from genarm.models.fused.weights import fused_weights


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    record_on_cpu(monkeypatch)


def test_where_there_is_no_room_for_another_step_all_end_together(
    decoder: GuidedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ending one graph would take the workspace from the others on its stream."""
    monkeypatch.setattr(graphs, "MOST_RUNS", 2)
    for batch, captures, held in ((4, 1, 1), (2, 2, 2), (4, 2, 2), (1, 3, 1), (4, 4, 2), (1, 4, 2)):
        decoder.generate(PROMPTS[:batch], **OPTIONS)
        assert (decoder.engine.captures, len(decoder.engine._captured._runs)) == (captures, held)


def sizes(decoder: GuidedDecoder) -> list[int]:
    return [cache.numel() for cache in decoder.engine._captured._caches]


def test_a_cache_starts_small_and_grows_to_a_decoders_limits(
    base: Any, rewards: dict[str, Any], eager: GuidedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SHORTEST", 16)
    limited = GuidedDecoder(base, rewards, max_batch_size=16, max_length=70)
    free = GuidedDecoder(base, rewards, max_batch_size=None, max_length=None)
    grown: dict[str, list[Any]] = {"limited": [], "free": []}
    for batch, tokens in ((1, 5), (3, 5), (2, 5), (1, 59), (3, 5), (4, 53)):
        options = OPTIONS | {"max_new_tokens": tokens}
        for name, which in (("limited", limited), ("free", free)):
            assert_same(which.generate(PROMPTS[:batch], **options), eager.generate(PROMPTS[:batch], **options))
            grown[name].append((sizes(which), which.engine.captures))
    for name, longest in (("limited", 71), ("free", 128)):
        expected = [(1, 16), (4, 32), (4, 32), (4, longest), (4, longest), (4, longest)]
        assert [size for size, _ in grown[name]] == [
            [backbone.cache_bytes(*size) for backbone in free.engine.backbones] for size in expected
        ], name
        assert [captures for _, captures in grown[name]] == [1, 2, 3, 4, 5, 5]


def test_idle_steps_hold_no_weights(
    base: Any, rewards: dict[str, Any], eager: GuidedDecoder, decoder: GuidedDecoder, tmp_path: Path
) -> None:
    """Other adapters lay the weights out anew: the old ones can go at once, and steps that read them are no use."""
    expected = eager.generate(PROMPTS[:3], **OPTIONS)
    assert_same(decoder.generate(PROMPTS[:3], **OPTIONS), expected)
    assert_same(decoder.generate(PROMPTS[:3], **OPTIONS), expected)
    assert decoder.engine.captures == 1
    (run,) = decoder.engine._captured._runs.values()
    assert [session._attached for session in run.sessions] == [None, None]  # type: ignore[attr-defined]
    other = GuidedDecoder(base, {"c": save_adapter(base, "llama", tmp_path / "c", seed=7, r=12)})
    assert_same(decoder.generate(PROMPTS[:3], **OPTIONS), expected)
    other.generate(PROMPTS[:3], **OPTIONS)
    assert_same(decoder.generate(PROMPTS[:3], **OPTIONS), expected)
    assert (decoder.engine.captures, other.engine.captures) == (2, 1)


def test_a_stream_outlives_a_new_layout(
    base: Any, eager: GuidedDecoder, decoder: GuidedDecoder, tmp_path: Path
) -> None:
    expected = eager.generate(PROMPTS[:3], **OPTIONS)
    steps = decoder.stream(PROMPTS[:3], **OPTIONS)
    tokens = [next(steps).tokens, next(steps).tokens]
    GuidedDecoder(base, {"c": save_adapter(base, "llama", tmp_path / "c", seed=7, r=20)}).generate(PROMPTS, **OPTIONS)
    tokens += [step.tokens for step in steps]
    for row, own in enumerate(expected.tokens):
        assert torch.cat([step[row] for step in tokens]).tolist() == own.tolist()
    assert_same(decoder.generate(PROMPTS[:3], **OPTIONS), expected)


@pytest.mark.parametrize(
    "part", ["lm_head", "model.norm", "model.layers.1.mlp.down_proj", "model.layers.0.input_layernorm"]
)
def test_weights_that_move_or_change_are_seen(part: str, rewards: dict[str, Any], tmp_path: Path) -> None:
    model = make_model("llama", seed=5)
    decoder, eager = (
        GuidedDecoder(model, {"b": rewards["b"]}),
        GuidedDecoder(model, {"b": rewards["b"]}, engine="eager"),
    )
    decoder.generate(PROMPTS[:2], **OPTIONS)
    weight = model.get_submodule(part).weight
    with torch.no_grad():
        weight.mul_(-0.5)
    assert_same(decoder.generate(PROMPTS[:2], **OPTIONS), eager.generate(PROMPTS[:2], **OPTIONS))
    assert decoder.engine.captures == 1, "changed in place, they are where the step reads them"
    weight.data = weight.data * 1.5
    assert_same(decoder.generate(PROMPTS[:2], **OPTIONS), eager.generate(PROMPTS[:2], **OPTIONS))
    assert decoder.engine.captures == 2


def test_release_gives_everything_back_once_nothing_runs(decoder: GuidedDecoder, eager: GuidedDecoder) -> None:
    expected = eager.generate(PROMPTS[:3], **OPTIONS)
    steps = decoder.stream(PROMPTS[:3], **OPTIONS)
    first = next(steps).tokens
    decoder.release()
    assert decoder.engine._captured.held_bytes() > 0, "a call on its way keeps its own"
    rest = [step.tokens for step in steps]
    assert torch.cat([step[0] for step in [first, *rest]]).tolist() == expected.tokens[0].tolist()
    assert (decoder.engine._captured.held_bytes(), decoder.engine._captured._runs) == (0, {})
    assert_same(decoder.generate(PROMPTS[:3], **OPTIONS), expected)
    decoder.release()
    assert (decoder.engine._captured.held_bytes(), decoder.engine._captured._runs) == (0, {})
    assert decoder.engine.captures == 2


@pytest.mark.filterwarnings("ignore:another call on this decoder")
def test_a_second_stream_has_buffers_of_its_own(decoder: GuidedDecoder, eager: GuidedDecoder) -> None:
    calls = [OPTIONS, OPTIONS | {"seed": 8, "temperature": 2.0}]
    expected = [eager.generate(PROMPTS[:3], **call) for call in calls]
    streams = [decoder.stream(PROMPTS[:3], **call) for call in calls]
    tokens: list[list[list[int]]] = [[[], [], []] for _ in streams]
    for pair in zip(*streams, strict=False):
        for own, step in zip(tokens, pair, strict=True):
            for row, new in enumerate(step.tokens):
                own[row] += new.tolist()
    shortest = min(len(output.tokens[row]) for output in expected for row in range(3))
    for own, output in zip(tokens, expected, strict=True):
        for row in range(3):
            assert own[row] == output.tokens[row].tolist()[: len(own[row])] and len(own[row]) >= shortest
    assert decoder.engine.captures == 1


def test_a_stream_left_half_way_is_said_once_and_in_each_calls_stats(
    decoder: GuidedDecoder, recwarn: pytest.WarningsRecorder
) -> None:
    with decoder.stream(PROMPTS[:1], **OPTIONS) as steps:
        next(steps)
        for _ in range(2):
            stats = decoder.generate(PROMPTS[:1], **OPTIONS).stats
            assert stats.engine == "fused (no CUDA graphs: another call has them)"
    (warning,) = [str(one.message) for one in recwarn]
    assert "a stream that is not at its end" in warning and "steps.close()" in warning and "\n" not in warning
    assert next(steps, None) is None
    assert decoder.generate(PROMPTS[:1], **OPTIONS).stats.engine == "fused (CUDA graphs)"


@pytest.mark.parametrize("engine", ["auto", "hf"])
@pytest.mark.parametrize("way", ["close", "with", "garbage", "error"])
def test_a_stream_gives_its_memory_back(way: str, engine: Any, base: Any, rewards: dict[str, Any]) -> None:
    decoder = GuidedDecoder(base, rewards, engine=engine)
    steps = decoder.stream(PROMPTS[:2], **OPTIONS)
    assert memory.held_bytes() == 0, "nothing is taken before the first step"
    next(steps)
    assert memory.held_bytes() > 0
    if way == "close":
        steps.close()
        steps.close()
    elif way == "with":
        with steps:
            next(steps)
    elif way == "error":
        with pytest.raises(ZeroDivisionError), steps:
            raise ZeroDivisionError
    else:
        del steps
        gc.collect()
    assert memory.held_bytes() == 0 and not decoder.engine._captured.is_taken


def test_a_stream_that_takes_anothers_room_is_named(
    decoder: GuidedDecoder, base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other, words in ((decoder, "fused"), (GuidedDecoder(base, engine="hf"), "hf")):
        with other.stream(PROMPTS[:2], **OPTIONS) as steps:
            next(steps)
            size = memory.held_bytes()
            with monkeypatch.context() as patch:
                patch.setattr(memory, "free_bytes", lambda _device: 10)
                with pytest.raises(CacheMemoryError, match=f"hold {size} bytes: end them, or close their streams"):
                    other.generate(PROMPTS[:2], **OPTIONS)
        assert other.generate(PROMPTS[:1], **OPTIONS).stats.engine.startswith(words)


def test_a_plan_that_is_made_anew_leaves_no_adapters_of_the_old_one_behind(tmp_path: Path) -> None:
    reward = peft_of(make_model("llama", seed=1), LoraConfig(**LORA))
    reward.add_adapter("other", LoraConfig(**LORA, init_lora_weights=False))
    decoder = GuidedDecoder(reward.get_base_model(), {"a": reward})
    for name in ("default", "other"):
        reward.set_adapter(name)
        decoder.generate(PROMPTS[:2], **OPTIONS)
        gc.collect()
        assert len(fused_weights(reward.get_base_model())._users) == 1


def test_a_stream_left_half_way_leaves_nothing_behind(decoder: GuidedDecoder, eager: GuidedDecoder) -> None:
    stream = decoder.stream(PROMPTS[:4], **OPTIONS | {"seed": 99})
    next(stream)
    next(stream)
    del stream
    assert_same(decoder.generate(PROMPTS[:3], **OPTIONS), eager.generate(PROMPTS[:3], **OPTIONS))
    assert decoder.engine.captures == 1


def test_a_step_that_cannot_be_captured_runs_without_a_graph(
    decoder: GuidedDecoder, eager: GuidedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the first cause is said, once."""
    calls = [OPTIONS, OPTIONS | {"seed": 8}, OPTIONS | {"top_k": 5}]
    edited = replace(decoder.prepare(PROMPTS[:3], **OPTIONS), edit=lambda _ids, scores: scores.flip(1))
    expected = [eager.generate(PROMPTS[:3], **call) for call in calls] + [eager.run(edited)]
    with monkeypatch.context() as patch:

        def fail(step: Any, *_: object) -> None:
            step()
            try:
                raise NotImplementedError("not on this device")
            except NotImplementedError:
                raise RuntimeError("the capture was broken off") from None

        patch.setattr(graphs, "capture", fail)
        with pytest.warns(UserWarning, match=r"captured as a CUDA graph \(NotImplementedError: not on this") as said:
            found = [decoder.generate(PROMPTS[:3], **call) for call in calls] + [decoder.run(edited)]
    assert len(said) == 1 and decoder.engine.captures == 0
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
        assert one.stats.engine == "fused (no CUDA graphs: a capture failed)"
    decoder.release()
    assert_same(decoder.generate(PROMPTS[:3], **OPTIONS), expected[0])
    assert decoder.engine.captures == 1


@pytest.mark.parametrize("where", ["attach", "load", "launch"])
def test_what_fails_half_way_gives_the_buffers_back(
    where: str, decoder: GuidedDecoder, eager: GuidedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = eager.generate(PROMPTS[:2], **OPTIONS)
    with monkeypatch.context() as patch:
        owner = {"attach": graphs.CapturedRun, "load": State, "launch": Run}[where]

        def fail(*_: object) -> None:
            raise RuntimeError("out of memory")

        patch.setattr(owner, where, fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            decoder.generate(PROMPTS[:2], **OPTIONS)
    found = decoder.generate(PROMPTS[:2], **OPTIONS)
    assert_same(found, expected)
    assert found.stats.engine == "fused (CUDA graphs)" and decoder.engine.captures == 1


def test_a_decoder_and_its_buffers_end_together(base: Any, rewards: dict[str, Any]) -> None:
    decoder = GuidedDecoder(base, rewards)
    decoder.generate(PROMPTS[:2], **OPTIONS)
    held = ref(decoder.engine._captured)
    del decoder
    gc.collect()
    assert held() is None
