"""Reward models that sleep on the prompt, by the kernels: a session in the interpreter, decoding on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from attention_cases import same_bits
from captured_cases import OPTIONS, PROMPTS, assert_same
from families import random_prompts
from fused_cases import VARIETIES, build, kinds
from gpu_cases import captured, waiting_for_nothing
from shared_attention_cases import OF_ROW, SHARED, TAILS, Case, assert_agrees, share
from woken_cases import assert_streams_are, mixed

import genarm_kernels
from genarm import GuidedDecoder
from genarm_kernels.layer.attention_arguments import new_arrivals

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
SMALL: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "head_dim": 16}
CUDA = "cuda"


@pytest.fixture
def exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.mark.interpreter
def test_a_session_by_the_kernels_is_its_literal_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt twice and another, beside an ordinary adapter, whose prompts are its own."""
    calls = []

    def counted(*args: Any, own: Any = genarm_kernels.shared_attention, **options: Any) -> Any:
        calls.append(args[0].shape[1])
        return own(*args, **options)

    monkeypatch.setattr(genarm_kernels, "shared_attention", counted)
    base = build("llama", num_hidden_layers=1, **SMALL)
    rewards, plain = mixed(base, 1, tmp_path, ordinary=1)
    decoder = GuidedDecoder(base, rewards)
    assert kinds(decoder) == ["fused"]
    one, other = random_prompts([5, 2], seed=1)
    assert_streams_are(decoder, plain, [[one, other, one]] * 3, steps=2)
    assert calls == [1] * 3, "each prompt's last token and two steps"


@pytest.mark.device
@pytest.mark.parametrize("variety", VARIETIES)
def test_streams_are_their_literal_loops_on_a_gpu(variety: str, tmp_path: Path, exact_float32: None) -> None:
    base = build(variety).to(CUDA)
    rewards, plain = mixed(base, 2, tmp_path, ordinary=1)
    decoder = GuidedDecoder(base, rewards)
    assert kinds(decoder) == ["fused"]
    prompts = random_prompts([5, 13, 1, 2], seed=1)
    assert_streams_are(decoder, plain, [prompts] * 4, tolerance=1e-3)


@pytest.mark.device
def test_captured_steps_are_eager_ones_on_a_gpu(tmp_path: Path, exact_float32: None) -> None:
    """Prompts of other lengths, shared or not, in the same graph; rows that take the places of others; particles."""
    base = build("llama").to(CUDA)
    rewards, _ = mixed(base, 2, tmp_path, ordinary=1)
    decoder, eager = GuidedDecoder(base, rewards), GuidedDecoder(base, rewards, engine="eager")
    for prompts in (PROMPTS[:4], [PROMPTS[4]] * 4, PROMPTS[4:8]):
        found = decoder.generate(prompts, **OPTIONS)
        assert found.stats.engine == "fused (CUDA graphs)"
        assert_same(found, eager.generate(prompts, **OPTIONS))
    few = [GuidedDecoder(base, rewards, max_batch_size=2, engine=engine) for engine in ("auto", "eager")]
    assert_same(*(decoder.generate(PROMPTS, **OPTIONS) for decoder in few))
    particles = OPTIONS | {"particles": 4, "resample_below": 1.0, "temperature": 0.3}
    assert_same(*(one.generate(PROMPTS[:2], **particles) for one in (decoder, eager)))


@pytest.mark.device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_replayed_graph_follows_lengths_and_who_shares(dtype: torch.dtype) -> None:
    inputs = Case(2, 8, 2, 64).make(OF_ROW, SHARED, TAILS, dtype=dtype, device=CUDA)
    arrivals = new_arrivals(8, 8, 2, CUDA)
    graph, out = captured(lambda: inputs.call(arrivals=arrivals))
    for of_row in (OF_ROW, [3, 3, 2, 2, 1, 1, 0, 0], [1] * 8):
        share(inputs.sharing, of_row, [SHARED[OF_ROW.index(prefix)] for prefix in of_row], [140, 64, 33, 0])
        inputs.lengths.copy_(inputs.sharing.lengths + torch.tensor(TAILS, device=CUDA))
        inputs.query.normal_()
        with waiting_for_nothing():
            graph.replay()
        assert same_bits(out, assert_agrees(inputs)) and not arrivals.any()


@pytest.mark.device
@pytest.mark.parametrize("window", [0, 4096])
def test_an_8b_model_s_rows_are_the_same_whoever_shares(window: int) -> None:
    of_row = [0] * 20 + [1] * 3 + [2]
    shared = [8000] * 18 + [7999, 63] + [20000] * 3 + [0]
    tails = [1 + 37 * row % 900 for row in range(24)]
    case = Case(1, 32, 8, 128, 900, 20000)
    inputs = case.make(of_row, shared, tails, dtype=torch.bfloat16, device=CUDA)
    whole = assert_agrees(inputs, window=window)
    for rows in ([0], [19], [21], [5, 18, 22, 23]):
        assert same_bits(inputs.only(rows).call(window=window), whole[rows])
