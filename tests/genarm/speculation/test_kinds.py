"""Drafts change no token of what a call may have beside them: settings per row, quantised bases, rows that fail in
captured steps; and where the kernels in C run they change no bit of its figures either."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import make_model, random_prompts, save_adapter
from recorded import record_on_cpu

import genarm_kernels
from genarm import GenerationOutput, GuidedDecoder
from genarm.engine.draft import Ngram
from genarm.engine.policy import Fixed
from genarm_kernels.step.rules import EOS, GOING_ON

PROMPTS = [*random_prompts([6, 11, 3], seed=1), torch.tensor([5, 6, 7, 8, 5, 6, 7]), torch.tensor([9, 4, 9, 4, 9])]
OPTIONS: dict[str, Any] = {
    "max_new_tokens": 9, "seed": 3, "eos_token_id": [4, 5, 6], "return_logprobs": True, "return_normalizers": True,
}  # fmt: skip
PER_ROW: dict[str, Any] = {
    "weights": [{"a": weight, "own": 1 - weight} for weight in (0.0, 0.5, 1.0, -0.5, 2.0)],
    "temperature": [0.0, 0.5, 1.0, 1.5, 1.0], "top_k": [0, 0, 5, 0, 40], "top_p": [1.0, 0.9, 1.0, 0.8, 1.0],
    "min_p": [0.0, 0.1, 0.0, 0.0, 0.05], "repetition_penalty": [1.0, 1.3, 1.0, 1.1, 1.0],
}  # fmt: skip


@pytest.fixture(scope="module")
def base() -> Any:
    return make_model("llama", seed=1)


@pytest.fixture(scope="module")
def rewards(base: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = save_adapter(base, "llama", tmp_path_factory.mktemp("adapter"), seed=4)
    return {"a": folder, "own": make_model("llama", seed=2, hidden=16)}


def tokens(out: GenerationOutput) -> list[list[int]]:
    return [row.tolist() for row in out.tokens]


@pytest.mark.parametrize(
    ("draft", "gamma", "way"),
    [("ngram", 3, "auto"), ("base", 3, "captured"), ("reward", 1, "hf")],
)
def test_rows_may_have_settings_of_their_own(
    draft: str, gamma: int, way: str, base: Any, rewards: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = "hf" if way == "hf" else "auto"
    expected = GuidedDecoder(base, rewards, engine=engine).generate(PROMPTS, **OPTIONS | PER_ROW)
    if way == "captured":
        record_on_cpu(monkeypatch)
    decoder = GuidedDecoder(base, rewards, engine=engine, max_length=60)
    speculate = {"draft": base if draft == "base" else draft, "gamma": gamma}
    found = decoder.generate(PROMPTS, speculate=speculate, **OPTIONS | PER_ROW)
    assert tokens(found) == tokens(expected) and found.finish_reasons == expected.finish_reasons
    assert bool(decoder.engine.captures) == (way == "captured")


@pytest.mark.parametrize("draft", ["reward", "base"])
@pytest.mark.usefixtures("native_path")
def test_figures_keep_every_bit_where_c_runs(draft: str, base: Any, rewards: dict[str, Any]) -> None:
    decoder = GuidedDecoder(base, rewards)
    expected = decoder.generate(PROMPTS, **OPTIONS)
    found = decoder.generate(PROMPTS, speculate={"draft": base if draft == "base" else draft, "gamma": 3}, **OPTIONS)
    assert tokens(found) == tokens(expected) and found.stats.drafted
    for name in ("logprobs", "model_logprobs", "log_normalizers"):
        assert torch.equal(getattr(found, name).nan_to_num(9.0), getattr(expected, name).nan_to_num(9.0)), name


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_quantised_base_decodes_with_drafts(base: Any, rewards: dict[str, Any]) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="NOT RUN: torchao is not installed")
    packed = copy.deepcopy(base)
    quantization.quantize_(packed.model.layers, quantization.Int8WeightOnlyConfig())
    decoder = GuidedDecoder(packed, rewards)
    assert [row["path"] for row in decoder.describe()] == ["hf", "hf", "fused"]
    expected = decoder.generate(PROMPTS, **OPTIONS)
    for draft in ("reward", base):
        found = decoder.generate(PROMPTS, speculate={"draft": draft, "gamma": 3}, **OPTIONS)
        assert tokens(found) == tokens(expected) and found.stats.accepted


@pytest.mark.parametrize("draft", ["ngram", "base"])
def test_a_row_that_fails_in_captured_steps_leaves_the_others_alone(
    draft: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its logits are NaN from the first draft on that it reads, and its caches keep NaN for whom comes after."""
    model = make_model("llama", seed=1)
    options: dict[str, Any] = {"max_new_tokens": 8, "eos_token_id": [], "seed": 3, "allowed_tokens": range(3, 90)}
    prompts = [prompt.clamp(max=89) for prompt in PROMPTS]
    expected = GuidedDecoder(model, engine="eager").generate(prompts, **options)
    with torch.no_grad():
        model.model.embed_tokens.weight[95] = torch.nan
    record_on_cpu(monkeypatch)
    decoder = GuidedDecoder(model, max_batch_size=8, max_length=60)
    speculate = {"draft": model if draft == "base" else draft, "gamma": 3}
    bad = list(prompts)
    bad[1] = torch.cat([prompts[1], torch.tensor([95])])
    found = decoder.generate(bad, speculate=speculate, **options)
    assert list(found.errors) == [1] and decoder.engine.captures
    again = decoder.generate(prompts, speculate=speculate, **options)
    assert tokens(again) == tokens(expected)
    assert [row for place, row in enumerate(tokens(found)) if place != 1] == [
        row for place, row in enumerate(tokens(expected)) if place != 1
    ]


def ngram(texts: torch.Tensor, ends: torch.Tensor, reasons: list[int] | None = None) -> Ngram:
    counts = torch.ones_like(ends)
    held = torch.tensor(reasons) if reasons is not None else torch.full_like(ends, GOING_ON)
    state = SimpleNamespace(ragged=SimpleNamespace(texts=texts, counts=counts), positions=ends, reasons=held)
    return Ngram(SimpleNamespace(state=state, captured=False, policy=Fixed(2)))  # type: ignore[arg-type]


def test_a_row_that_has_ended_proposes_nothing() -> None:
    texts = torch.tensor([[5, 6, 7, 5, 6, 0, 0]] * 2)
    draft = ngram(texts, torch.tensor([5, 5]), [EOS, GOING_ON])
    assert draft.propose(2).counts.tolist() == [0, 2]


def test_n_grams_are_looked_for_where_a_pair_recurs_and_nowhere_else() -> None:
    """Rows of all lengths, behind whose ends anything stands."""
    texts = torch.randint(3, 12, (60, 13), generator=torch.Generator().manual_seed(2))
    found = []
    for row, end in ((row, end) for row in range(20) for end in range(1, 14)):
        rows, ends = texts[row : row + 1], torch.tensor([end])
        draft = ngram(rows, ends)
        drafts, counts = genarm_kernels.ngram_draft(rows, ends, 2)
        proposal = draft.propose(2)
        assert torch.equal(proposal.tokens, drafts) and torch.equal(proposal.counts, counts)
        assert (draft._rows() == [0]) == bool(counts.any())
        found.append(bool(counts.any()))
    assert set(found) == {True, False}
