"""Captured steps on a GPU: the eager tokens, whatever changes between replays, and nothing waited for or allocated."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_model, random_prompts, save_adapter
from gpu_cases import captured, waiting_for_nothing

from genarm import CacheMemoryError, GenerationOutput, GuidedDecoder
from genarm.engine import memory
from genarm.engine.run import Run

pytestmark = pytest.mark.device
PROMPTS = [row.cuda() if torch.cuda.is_available() else row for row in random_prompts([6, 11, 3, 1, 17, 4, 9, 2, 5])]
EOS = list(range(3, 15))
OPTIONS: dict[str, Any] = {"max_new_tokens": 12, "seed": 3, "return_logprobs": True, "eos_token_id": EOS}


def make_pair(folder: Path, dtype: torch.dtype, **settings: Any) -> tuple[GuidedDecoder, GuidedDecoder]:
    """Captured and eager decoders on the same models: two adapters on the base, and a reward model of its own."""
    base = make_model("llama", seed=1)
    rewards: dict[str, Any] = {
        name: save_adapter(base, "llama", folder / name, seed=seed) for name, seed in (("a", 4), ("b", 5))
    }
    rewards["c"] = make_model("qwen3", seed=2, hidden=64).to("cuda", dtype)
    base = base.to("cuda", dtype)
    return GuidedDecoder(base, rewards, **settings), GuidedDecoder(base, rewards, engine="eager", **settings)


def assert_same(found: GenerationOutput, expected: GenerationOutput, tight: bool = True) -> None:
    assert torch.equal(found.sequences, expected.sequences)
    assert found.finish_reasons == expected.finish_reasons
    tolerance = 1e-4 if tight else 2e-2
    torch.testing.assert_close(found.logprobs, expected.logprobs, atol=tolerance, rtol=tolerance, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_captured_steps_draw_the_eager_tokens_in_every_bucket(dtype: torch.dtype, tmp_path: Path) -> None:
    """An idle row changes no other row; in bfloat16 a bucket of its own size is compared, as rows are multiplied."""
    captured, eager = make_pair(tmp_path, dtype, max_batch_size=16)
    for batch in range(1, 10):
        if dtype == torch.bfloat16 and batch & (batch - 1):
            continue
        found = captured.generate(PROMPTS[:batch], **OPTIONS)
        expected = eager.generate(PROMPTS[:batch], **OPTIONS)
        assert_same(found, expected, tight=dtype == torch.float32)
        assert found.stats.engine == "fused (CUDA graphs)" and expected.stats.engine == "fused"
    assert captured.engine.captures == (5 if dtype == torch.float32 else 4)


def test_one_capture_follows_every_value(tmp_path: Path) -> None:
    captured, eager = make_pair(tmp_path, torch.float32)
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 4},
        {"weights": {"a": -0.5, "b": 2.0, "c": 0.0}},
        {"temperature": [0.0, 1.0, 2.0, 0.5]},
        {"max_new_tokens": 3},
        {"eos_token_id": list(range(60, 70))},
        {"reward_prompts": {"b": [row.cuda() for row in random_prompts([2, 20, 9, 3], seed=9)]}},
    ]
    for change in [*changes, *changes[::-1]]:
        assert_same(captured.generate(PROMPTS[:4], **OPTIONS | change), eager.generate(PROMPTS[:4], **OPTIONS | change))
    assert captured.engine.captures == 1
    for setting in ({"top_k": 5, "top_p": 0.9}, {"top_k": 60, "top_p": 0.3}, {"stop": [[40], [41, 42]]}):
        assert_same(
            captured.generate(PROMPTS[:4], **OPTIONS | setting), eager.generate(PROMPTS[:4], **OPTIONS | setting)
        )
    gates: list[dict[str, Any]] = [{"guide_when": {"entropy": 4.4}}, {"guide_when": {"top_probability": 0.03}}]
    for setting in ({"repetition_penalty": 1.3}, {"repetition_penalty": 0.8}, {"logit_bias": {5: 2.0}}, *gates):
        assert_same(
            captured.generate(PROMPTS[:4], **OPTIONS | setting), eager.generate(PROMPTS[:4], **OPTIONS | setting)
        )


def test_separate_models_are_branches_of_one_graph(tmp_path: Path) -> None:
    captured, eager = make_pair(tmp_path, torch.bfloat16)
    found, expected = captured.generate(PROMPTS[:4], **OPTIONS), eager.generate(PROMPTS[:4], **OPTIONS)
    assert_same(found, expected, tight=False)
    streams = captured.engine._captured.streams
    assert len({stream.cuda_stream for stream in streams}) == len(captured.engine.backbones) == 2


def test_what_ends_one_decoders_graphs_leaves_anothers_right() -> None:
    """Ending a graph frees cuBLAS's workspace of all graphs captured on its stream; what lies there next is noise."""
    prompts = [row.cuda() for row in random_prompts([7] * 32, seed=1)]
    options: dict[str, Any] = {"max_new_tokens": 24, "eos_token_id": [], "seed": 5}
    first, second = (GuidedDecoder(make_model("llama", seed=seed).to("cuda"), max_batch_size=32) for seed in (1, 2))
    expected = second.generate(prompts, **options)
    first.generate(prompts, **options)
    assert torch.equal(second.generate(prompts, **options).sequences, expected.sequences)
    del first
    gc.collect()
    torch.cuda.empty_cache()
    noise = [torch.full((2**20,), torch.nan, device="cuda") for _ in range(64)]
    found = second.generate(prompts, **options)
    assert torch.equal(found.sequences, expected.sequences) and second.engine.captures == 1
    del noise
    second.release()
    assert torch.equal(second.generate(prompts, **options).sequences, expected.sequences)


def test_release_gives_memory_back(tmp_path: Path) -> None:
    captured, _ = make_pair(tmp_path, torch.bfloat16)
    used = torch.cuda.memory_allocated()
    captured.generate(PROMPTS[:4], **OPTIONS)
    assert torch.cuda.memory_allocated() > used
    captured.release()
    gc.collect()
    assert torch.cuda.memory_allocated() <= used + 2**20


def test_the_verbs_are_captured_too() -> None:
    """Three tokens appended, two taken back on the device and a row copied, replayed over other lengths and rows."""
    (backbone,) = GuidedDecoder(make_model("qwen3", seed=1).to("cuda")).engine.backbones
    sessions = [backbone.session(3, 64) for _ in range(2)]
    tokens, places = torch.zeros(3, 3, dtype=torch.int64, device="cuda"), torch.tensor([[0, 2], [1, 0]], device="cuda")

    def step(session: Any) -> list[torch.Tensor]:
        logits = session.append(tokens)
        session.truncate(session.lengths - 2)
        session.copy(places[0], places[1])
        return [*logits, session.lengths]

    with torch.no_grad():
        graph, results = captured(lambda: step(sessions[0]))
        for seed, lengths in enumerate([[5, 11, 2], [20, 1, 7]]):
            prompts = [row.cuda() for row in random_prompts(lengths, seed=seed)]
            for session in sessions:
                session.prefill([prompts])
            for turn in range(3):
                tokens.copy_(torch.stack(random_prompts([3] * 3, seed=10 + turn)))
                places.copy_(torch.tensor([[turn % 3, 1], [(turn + 1) % 3, (turn + 2) % 3]]))
                graph.replay()
                for found, expected in zip(results, step(sessions[1]), strict=True):
                    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_callers_code_runs_between_captured_forward_passes(tmp_path: Path) -> None:
    captured, eager = make_pair(tmp_path, torch.float32)
    outputs = []
    for decoder in (eager, captured, captured):
        request = decoder.prepare(PROMPTS[:3], **OPTIONS)
        request = replace(request, edit=lambda _ids, scores: scores.flip(1), halt=lambda ids: ids[:, -1] % 7 == 0)
        outputs.append(decoder.run(request))
    assert_same(outputs[1], outputs[0])
    assert_same(outputs[2], outputs[0])


def test_a_long_run_neither_captures_again_nor_takes_memory(tmp_path: Path) -> None:
    captured, _ = make_pair(tmp_path, torch.bfloat16, max_batch_size=4, max_length=512)
    options: dict[str, Any] = {"max_new_tokens": 125, "eos_token_id": []}
    captured.generate(PROMPTS[:4], seed=0, **options)
    used = []
    for seed in range(1, 9):
        captured.generate(PROMPTS[:4], seed=seed, **options)
        torch.cuda.synchronize()
        used.append(torch.cuda.memory_allocated())
    assert len(set(used)) == 1 and captured.engine.captures == 1


@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_a_step_waits_for_nothing(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Run.launch

    def launch(run: Run, step: int) -> torch.Tensor:
        if step < 2:  # the prefill, and where nothing is captured a step that compiles
            return own(run, step)
        with waiting_for_nothing():
            return own(run, step)

    decoder = make_pair(tmp_path, torch.bfloat16)[engine == "eager"]
    decoder.generate(PROMPTS[:3], **OPTIONS)
    monkeypatch.setattr(Run, "launch", launch)
    assert len(decoder.generate(PROMPTS[:3], **OPTIONS | {"eos_token_id": []}).tokens[0]) == 12


def test_a_failed_row_leaves_nothing_to_the_next_job(tmp_path: Path) -> None:
    captured, eager = make_pair(tmp_path, torch.float32)
    expected = eager.generate(PROMPTS[:4], **OPTIONS)
    long = [row.cuda() for row in random_prompts([60, 60], seed=3, vocab=90)]
    long[0][10:] = 95
    embedding = captured.base_model.model.embed_tokens.weight  # type: ignore[union-attr]
    kept = embedding.data[95].clone()  # type: ignore[union-attr, index]
    with torch.no_grad():
        embedding[95] = torch.nan  # type: ignore[index, operator]
    failed = captured.generate(long, **OPTIONS | {"eos_token_id": [], "logit_bias": {95: -torch.inf}})
    assert failed.finish_reasons == ["error", "length"]
    with torch.no_grad():
        embedding[95] = kept  # type: ignore[index, operator]
    assert_same(captured.generate(PROMPTS[:4], **OPTIONS), expected)


def test_streams_beside_each_other_and_on_other_cuda_streams(tmp_path: Path) -> None:
    captured, eager = make_pair(tmp_path, torch.float32)
    expected = [eager.generate(PROMPTS[:2], **OPTIONS | {"seed": seed}) for seed in range(3)]
    steps = captured.stream(PROMPTS[:2], **OPTIONS | {"seed": 0})
    next(steps)
    assert_same(captured.generate(PROMPTS[:2], **OPTIONS | {"seed": 1}), expected[1])
    del steps
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        found = captured.generate(PROMPTS[:2], **OPTIONS | {"seed": 2})
    side.synchronize()
    assert_same(found, expected[2])
    assert_same(captured.generate(PROMPTS[:2], **OPTIONS | {"seed": 0}), expected[0])


def test_a_cache_that_does_not_fit_is_not_allocated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captured, eager = make_pair(tmp_path, torch.bfloat16)
    used = torch.cuda.memory_allocated()
    with monkeypatch.context() as patch:
        patch.setattr(memory, "free_bytes", lambda _device: 1000)
        with pytest.raises(CacheMemoryError, match="are free on cuda:0"):
            captured.generate(PROMPTS[:2], **OPTIONS)
        assert torch.cuda.memory_allocated() <= used + 2**20
    found, expected = captured.generate(PROMPTS[:2], **OPTIONS), eager.generate(PROMPTS[:2], **OPTIONS)
    assert_same(found, expected, tight=False)


def test_a_model_that_moves_is_captured_where_it_is(tmp_path: Path) -> None:
    model = make_model("llama", seed=1)
    decoder = GuidedDecoder(model)
    rows = [row.cpu() for row in PROMPTS[:2]]
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0.0}
    expected = decoder.generate(rows, **options)
    model.cuda()
    found = decoder.generate(rows, **options)
    assert found.stats.engine == "fused (CUDA graphs)" and found.sequences.is_cuda
    assert torch.equal(found.sequences.cpu(), expected.sequences)
