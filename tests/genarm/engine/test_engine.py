"""Which buffers a request gets, what it is called, and how far behind it is read."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from recorded import record_on_cpu

from genarm import GuidedDecoder
from genarm.engine.engine import Engine
from genarm.engine.graphs import CapturedRun
from genarm.engine.run import Run

PROMPTS = random_prompts([6, 3], seed=1)


def make_decoder(family: str = "llama", reward: str | None = None, **settings: Any) -> GuidedDecoder:
    rewards = {"r": make_model(reward, seed=2)} if reward else None
    return GuidedDecoder(make_model(family, seed=1), rewards, **settings)


@pytest.mark.parametrize(
    ("family", "reward", "engine", "kind"),
    [
        ("llama", None, "auto", "fused (CUDA graphs)"),
        ("llama", "qwen3", "auto", "fused (CUDA graphs)"),
        ("llama", None, "eager", "fused"),
        ("llama", None, "hf", "hf"),
        ("gpt2", None, "auto", "hf"),
        ("llama", "gpt2", "auto", "fused+hf"),
        ("gpt2", "llama", "auto", "hf+fused"),
        ("gpt2", "gemma3", "eager", "hf"),
    ],
)
def test_every_path_has_a_name_and_only_fused_steps_are_captured(
    family: str, reward: str | None, engine: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make_decoder(family, reward, engine=engine).engine.kind == kind.removesuffix(" (CUDA graphs)")
    record_on_cpu(monkeypatch)
    decoder = make_decoder(family, reward, engine=engine)
    assert decoder.engine.kind == kind
    assert decoder.generate(PROMPTS, max_new_tokens=2).stats.engine == kind
    assert decoder.engine.captures == ("graphs" in kind)


def test_what_turns_out_not_to_take_part_is_called_padded() -> None:
    """That a model needs padding may show in its first pass only."""
    decoder = make_decoder("gpt2", engine="hf")
    (backbone,) = decoder.engine.backbones
    backbone.static = False  # type: ignore[attr-defined]
    assert decoder.generate(PROMPTS, max_new_tokens=2).stats.engine == "hf-padded"


def test_the_host_reads_a_step_behind_on_a_gpu_unless_it_takes_part() -> None:
    engine = make_decoder().engine
    request: Any = SimpleNamespace(device=torch.device("cuda"), interrupts=False)
    assert engine.lag(request) == 1
    assert engine.lag(SimpleNamespace(device=torch.device("cuda"), interrupts=True)) == 0  # type: ignore[arg-type]
    assert engine.lag(SimpleNamespace(device=torch.device("cpu"), interrupts=False)) == 0  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:another call on this decoder")
def test_a_request_that_finds_the_captured_buffers_taken_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    record_on_cpu(monkeypatch)
    decoder = make_decoder()
    engine: Engine = decoder.engine
    request = decoder.prepare(PROMPTS, max_new_tokens=4)
    with engine.run(request) as first, engine.run(request) as second:
        assert type(first) is CapturedRun and type(second) is Run
        assert first.sessions[0].cache.data_ptr() != second.sessions[0].cache.data_ptr()  # type: ignore[attr-defined]
    with engine.run(request) as third:
        assert third is first


def test_requests_with_callers_code_and_without_have_steps_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    record_on_cpu(monkeypatch)
    decoder = make_decoder()
    request = decoder.prepare(PROMPTS[:1], max_new_tokens=4)
    edited = replace(request, edit=lambda _ids, scores: scores)
    requests = [request, replace(request, halt=lambda ids: ids[:, -1] < 0), edited]
    runs = []
    for one in requests:
        with decoder.engine.run(one) as run:
            runs.append(run)
    assert runs[0] is not runs[1] and runs[1] is runs[2]


def test_models_may_change_between_calls() -> None:
    """Cast, the engine follows; on another device it would capture there."""
    model = make_model("llama", seed=1)
    decoder = GuidedDecoder(model)
    decoder.generate(PROMPTS, max_new_tokens=2)
    model.to(torch.bfloat16)
    fresh = GuidedDecoder(model)
    options: dict[str, Any] = {"max_new_tokens": 6, "seed": 1}
    assert torch.equal(decoder.generate(PROMPTS, **options).sequences, fresh.generate(PROMPTS, **options).sequences)
    model.to("meta")
    assert decoder.engine.device == torch.device("meta")
