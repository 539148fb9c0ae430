"""What callers of the drop-in bring to each step, where rows take each other's places."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import VOCAB, left_padded, make_model, random_prompts
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList, TemperatureLogitsWarper

from genarm import GuidedDecoder, NumericalError, UnsupportedGenerationError, custom_generate

IDS, MASK = left_padded(random_prompts([6, 9, 3], seed=1))
BATCH: dict[str, Any] = {"input_ids": IDS, "attention_mask": MASK, "custom_generate": custom_generate}
DRAWN: dict[str, Any] = {"do_sample": True, "top_k": 0, "max_new_tokens": 8, "return_dict_in_generate": True}
MANY: dict[str, Any] = {"particles": 12, "resample_below": 1.0, "length_bonus": 5.0, "seed": 5}
STOPS = list(range(20, 26))


class AtAToken(StoppingCriteria):
    """Looks at a row's last token alone, so a row that goes on as another is no longer where it was stopped."""

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.isin(input_ids[:, -1], torch.tensor(STOPS))


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model("llama", seed=1)


@pytest.fixture(scope="module")
def reward() -> Any:
    return make_model("llama", seed=2)


@pytest.mark.parametrize("eos", [2, None])
def test_a_criterion_stops_the_text_and_not_the_place_that_it_was_in(
    model: Any, reward: Any, eos: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.generation_config, "eos_token_id", eos)
    criteria = StoppingCriteriaList([AtAToken()])
    out = model.generate(**BATCH, **DRAWN, **MANY, reward_models=[reward], stopping_criteria=criteria)
    expected = GuidedDecoder(model, [reward]).generate(
        IDS, MASK, stop=[[one] for one in STOPS], max_new_tokens=8, eos_token_id=[] if eos is None else eos, **MANY
    )
    assert torch.equal(out.sequences, expected.sequences) and "stop" in expected.finish_reasons
    assert out.log_evidence.tolist() == pytest.approx(expected.log_evidence.tolist())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"typical_p": 0.9, "temperature": 0.7}, "temperature acts before TypicalLogitsWarper"),
        ({"renormalize_logits": True}, "LogitNormalization"),
        ({"forced_eos_token_id": 2}, "ForcedEOSTokenLogitsProcessor"),
        ({"guidance_scale": 1.5}, "UnbatchedClassifierFreeGuidanceLogitsProcessor"),
        ({"logits_processor": LogitsProcessorList([TemperatureLogitsWarper(0.7), lambda _, s: s])}, "temperature acts"),
    ],
    ids=["typical", "renormalised", "forced", "classifier-free", "own"],
)
def test_what_takes_the_models_scale_off_the_scores_is_refused(
    model: Any, reward: Any, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnsupportedGenerationError, match=words) as caught:
        model.generate(**BATCH, **DRAWN, **MANY, reward_models=[reward], **settings)
    assert "\n" not in str(caught.value)
    options = {**BATCH, **DRAWN, "max_new_tokens": 2, "seed": 1}
    assert model.generate(**options, reward_models=[reward], **settings).sequences.shape == (3, IDS.shape[1] + 2)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_scores_of_infinity_are_no_weights(model: Any, reward: Any, temperature: float) -> None:
    def infinite(_: Tensor, scores: Tensor) -> Tensor:
        return scores.masked_fill(torch.arange(VOCAB) == 9, torch.inf)

    options = {**BATCH, **DRAWN, "temperature": temperature, "logits_processor": LogitsProcessorList([infinite])}
    assert (model.generate(**options, reward_models=[reward]).sequences[:, IDS.shape[1] :] == 9).all()
    with pytest.raises(NumericalError, match=r"prompt 0, all particles: .* mask the others"):
        model.generate(**options, **MANY, reward_models=[reward])


def test_weights_do_not_follow_what_a_model_adds_to_all_its_logits(model: Any) -> None:
    """Which says nothing: processors that mask, add or penalise keep it so, as do filters of their own."""

    def rewards(level: float) -> Any:
        head = make_model("llama", seed=2)
        head.lm_head.bias = torch.nn.Parameter(torch.full((VOCAB,), level))
        return head

    settings: dict[str, Any] = {"typical_p": 0.9, "min_new_tokens": 2, "sequence_bias": {(7,): 1.5}, "min_p": 0.01}
    low, high = (
        model.generate(**BATCH, **DRAWN, **MANY, reward_models=[rewards(level)], **settings) for level in (0.0, 30.0)
    )
    assert torch.equal(low.sequences, high.sequences)
    assert low.log_evidence.tolist() == pytest.approx(high.log_evidence.tolist(), abs=1e-3)
