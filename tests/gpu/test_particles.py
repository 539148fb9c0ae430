"""Particles on a GPU: captured steps resample as eager ones do, wait for nothing, and leave every cache right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import captured_particles as checks
import pytest
import torch
from captured_particles import OPTIONS, texts
from families import make_model, random_prompts, save_adapter
from gpu_cases import captured, waiting_for_nothing
from torch import Tensor

from genarm import GuidedDecoder
from genarm.engine.run import Run

pytestmark = pytest.mark.device
PROMPTS = random_prompts([6, 11], seed=1)
ALWAYS: dict[str, Any] = OPTIONS | {"resample_below": 1.0}


def make_pair(folder: Path) -> tuple[GuidedDecoder, GuidedDecoder]:
    """Captured and eager decoders: an adapter on the base's weights, and a reward model of its own."""
    base = make_model("llama", seed=1)
    rewards: dict[str, Any] = {"a": save_adapter(base, "llama", folder / "a", seed=4)}
    rewards["b"] = make_model("qwen3", seed=2, hidden=64).to("cuda")
    base = base.to("cuda")
    return GuidedDecoder(base, rewards), GuidedDecoder(base, rewards, engine="eager")


def test_captured_particles_are_those_of_eager_steps(tmp_path: Path) -> None:
    checks.check_captured_particles(*make_pair(tmp_path), [row.cuda() for row in PROMPTS])


def test_captured_normalizers_are_what_the_models_say(tmp_path: Path) -> None:
    checks.check_captured_normalizers(*make_pair(tmp_path), [row.cuda() for row in PROMPTS])


def test_a_captured_resampling_follows_its_weights() -> None:
    def capture(step: Any) -> tuple[Any, list[Tensor]]:
        graph, results = captured(step)
        return graph.replay, results

    checks.check_a_captured_resampling_follows_its_weights(capture, "cuda")


def test_a_call_again_has_the_same_bits(tmp_path: Path) -> None:
    decoder, _ = make_pair(tmp_path)
    found, again = (decoder.generate([row.cuda() for row in PROMPTS], **ALWAYS) for _ in range(2))
    assert texts(found) == texts(again)
    assert found.log_evidence is not None and again.log_evidence is not None
    assert torch.equal(found.log_evidence, again.log_evidence)


def test_particles_of_a_gpu_are_those_of_a_cpu(tmp_path: Path) -> None:
    base = make_model("llama", seed=1)
    reward = save_adapter(base, "llama", tmp_path / "a", seed=4)
    expected = GuidedDecoder(base, {"a": reward}).generate(PROMPTS, **ALWAYS)
    found = GuidedDecoder(base.to("cuda"), {"a": reward}).generate(PROMPTS, **ALWAYS)
    assert texts(found) == texts(expected)
    assert found.log_evidence is not None and expected.log_evidence is not None
    torch.testing.assert_close(found.log_evidence.cpu(), expected.log_evidence, atol=1e-3, rtol=1e-3)


def test_a_step_with_particles_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Run.launch

    def launch(run: Run, step: int) -> Tensor:
        if step < 2:  # the prefill, and what compiles
            return own(run, step)
        with waiting_for_nothing():
            return own(run, step)

    for decoder in make_pair(tmp_path):
        options = ALWAYS | {"eos_token_id": []}
        decoder.generate(PROMPTS, **options)
        with monkeypatch.context() as patch:
            patch.setattr(Run, "launch", launch)
            assert decoder.generate(PROMPTS, **options).stats.steps == OPTIONS["max_new_tokens"]
