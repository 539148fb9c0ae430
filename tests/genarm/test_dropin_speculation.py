"""Drafts through the drop-in, the call in one line and the methods: the same tokens as without, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import left_padded, make_model, random_prompts
from method_cases import make_scorer
from torch import Tensor
from transformers import LogitsProcessorList, MaxTimeCriteria, StoppingCriteriaList

from genarm import GuidedDecoder, InvalidArgumentError, UnsupportedGenerationError, custom_generate, generate, methods

PROMPTS = [torch.cat([row, row, row]) for row in random_prompts([4, 6, 3], seed=1)]
IDS, MASK = left_padded(PROMPTS)
BATCH: dict[str, Any] = {"input_ids": IDS, "attention_mask": MASK, "custom_generate": custom_generate}
LENGTH: dict[str, Any] = {"max_new_tokens": 9, "eos_token_id": [2]}


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model("llama", seed=1)


@pytest.fixture(scope="module")
def reward() -> Any:
    return make_model("llama", seed=2, hidden=16)


@pytest.mark.parametrize("draft", ["ngram", "reward", "model"])
@pytest.mark.parametrize(
    "settings",
    [{"do_sample": False}, {"do_sample": True, "temperature": 0.7, "top_k": 12, "top_p": 0.9, "min_p": 0.02}],
    ids=["greedy", "sampled"],
)
def test_settings_that_decoding_has_itself_work_beside_drafts(
    model: Any, reward: Any, settings: dict[str, Any], draft: str
) -> None:
    given = {**BATCH, **LENGTH, **settings, "reward_models": {"r": reward}, "seed": 5, "num_return_sequences": 1}
    expected = model.generate(**given)
    source = model if draft == "model" else draft
    found = model.generate(**given, speculate={"draft": source, "gamma": 3})
    assert torch.equal(found, expected)


def test_torchs_seed_governs_the_draws(model: Any, reward: Any) -> None:
    found = []
    for speculate in (None, "ngram"):
        torch.manual_seed(4)
        given = {**BATCH, **LENGTH, "do_sample": True, "num_return_sequences": 2, "reward_models": [reward]}
        found.append(model.generate(**given, speculate=speculate))
    assert torch.equal(found[0], found[1])


def test_code_of_the_caller_and_scores_are_refused_beside_drafts(model: Any, reward: Any) -> None:
    def keep(ids: Tensor, scores: Tensor) -> Tensor:
        return scores

    given = {**BATCH, **LENGTH, "do_sample": False, "reward_models": [reward], "speculate": "ngram"}
    for own in (
        {"logits_processor": LogitsProcessorList([keep])},
        {"stopping_criteria": StoppingCriteriaList([MaxTimeCriteria(60.0)])},
        {"repetition_penalty": 1.3},
    ):
        with pytest.raises(InvalidArgumentError, match="leave speculate out, or them"):
            model.generate(**given, **own)
    with pytest.raises(UnsupportedGenerationError, match="not kept with speculate"):
        model.generate(**given, return_dict_in_generate=True, output_scores=True)
    with pytest.raises(InvalidArgumentError, match="particles"):
        model.generate(**{**given, "do_sample": True, "top_k": 0}, particles=2)


def test_the_call_in_one_line_and_its_counts(model: Any, reward: Any) -> None:
    settings: dict[str, Any] = {"attention_mask": MASK, "seed": 4, **LENGTH}
    expected = generate(model, IDS, [reward], **settings)
    out = generate(model, IDS, [reward], speculate={"draft": model, "gamma": 2}, **settings)
    assert torch.equal(out.sequences, expected.sequences) and expected.speculated is None
    assert out.speculated is not None and out.speculated.shape == (3, 3)
    stats = out.stats
    assert out.speculated.sum(0).tolist() == [stats.drafted, stats.accepted, stats.verified]
    for row in range(3):  # a row's counts are its own, whatever is beside it
        alone = generate(
            model, [PROMPTS[row]], [reward], speculate={"draft": model, "gamma": 2}, **LENGTH,
            seed=torch.tensor([_seed(row)]),
        )  # fmt: skip
        assert alone.speculated is not None
        assert alone.speculated[0].tolist() == out.speculated[row].tolist()


def _seed(row: int) -> int:
    import genarm_kernels

    return int(genarm_kernels.row_seeds(4, row + 1)[row])


def test_methods_hand_drafts_on_and_what_draws_nothing_refuses_them(model: Any, reward: Any) -> None:
    decoder = GuidedDecoder(model, {"r": reward})
    settings: dict[str, Any] = {"policy": "r", "seed": 3, **LENGTH}
    expected = methods.get("dpo").generate(decoder, PROMPTS, **settings)
    found = methods.get("dpo").generate(decoder, PROMPTS, speculate="ngram", **settings)
    assert torch.equal(found.sequences, expected.sequences) and found.stats.verified
    chosen = {"trajectory_rm": make_scorer("llama", seed=7), "draws": 2, "seed": 3, **LENGTH}
    best = methods.get("best_of_n").generate(decoder.only(), PROMPTS, **chosen)
    drafted = methods.get("best_of_n").generate(
        decoder.only(), PROMPTS, speculate={"draft": "ngram", "gamma": 3}, **chosen
    )
    assert torch.equal(drafted.sequences, best.sequences) and drafted.speculated is not None
    assert drafted.speculated[:, 2].sum() == drafted.stats.verified > 0
    with pytest.raises(InvalidArgumentError, match="'speculate'"):
        decoder.score(PROMPTS, [[5], [6], [7]], speculate="ngram")  # type: ignore[call-arg]
    with pytest.raises(InvalidArgumentError, match="'speculate'"):
        methods.get("args").generate(decoder, PROMPTS, trajectory_rm=reward, speculate="ngram")
