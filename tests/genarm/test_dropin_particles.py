"""Whole answers through the drop-in: what the decoder draws, what comes back, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import VOCAB, left_padded, make_model, random_prompts, word_tokenizer
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.utils import GenerateDecoderOnlyOutput

from genarm import GenARMError, GuidedDecoder, NumericalError, UnsupportedGenerationError, custom_generate, generate

PROMPTS = random_prompts([6, 9, 3], seed=1)
IDS, MASK = left_padded(PROMPTS)
BATCH: dict[str, Any] = {"input_ids": IDS, "attention_mask": MASK, "custom_generate": custom_generate}
DRAWN: dict[str, Any] = {"do_sample": True, "top_k": 0, "max_new_tokens": 5, "return_dict_in_generate": True}
FEW: dict[str, Any] = {"particles": 4, "resample_below": 0.9, "resample_every": 2, "length_bonus": 0.2}


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model("llama", seed=1)


@pytest.fixture(scope="module")
def reward() -> Any:
    return make_model("llama", seed=2)


def test_answers_and_evidence_are_the_decoders_own(model: Any, reward: Any) -> None:
    out = model.generate(
        **BATCH, **DRAWN, **FEW, reward_models={"r": reward}, reward_weights=[{"r": 0.5}, {"r": 1.0}, {"r": -0.5}],
        num_return_sequences=2, seed=torch.tensor([7, 8, 9]), beta=[1.0, 2.0, 1.0],
    )  # fmt: skip
    expected = GuidedDecoder(model, {"r": reward}).generate(
        IDS, MASK, weights=[{"r": 0.5}, {"r": 1.0}, {"r": -0.5}], beta=[1.0, 2.0, 1.0], num_return_sequences=2,
        seed=torch.tensor([7, 8, 9]), max_new_tokens=5, **FEW,
    )  # fmt: skip
    assert isinstance(out, GenerateDecoderOnlyOutput) and torch.equal(out.sequences, expected.sequences)
    assert out.sequences.shape[0] == 6 and out.log_evidence.tolist() == pytest.approx(expected.log_evidence.tolist())
    assert out["log_evidence"].dtype == torch.float64 and out.log_evidence.shape == (6,)
    plain = model.generate(**BATCH, **DRAWN, reward_models={"r": reward}, seed=3)
    assert type(plain) is GenerateDecoderOnlyOutput


def test_torchs_seed_governs_them_and_the_call_in_one_line_has_them(model: Any, reward: Any) -> None:
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(
            model.generate(**BATCH, **{**DRAWN, "return_dict_in_generate": False}, **FEW, reward_models=[reward])
        )
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    out = generate(model, IDS, [reward], attention_mask=MASK, max_new_tokens=5, seed=4, **FEW)
    expected = GuidedDecoder(model, [reward]).generate(IDS, MASK, max_new_tokens=5, seed=4, **FEW)
    assert torch.equal(out.sequences, expected.sequences)
    assert out.log_evidence.tolist() == pytest.approx(expected.log_evidence.tolist())


def test_processors_see_every_particle_behind_its_prompt(model: Any, reward: Any) -> None:
    seen: list[Tensor] = []

    def forbid(ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(ids)
        return scores.masked_fill(torch.arange(VOCAB) % 2 == 1, -torch.inf)

    out = model.generate(
        **BATCH, **DRAWN, **FEW, reward_models=[reward], logits_processor=LogitsProcessorList([forbid])
    )
    bias = dict.fromkeys(range(1, VOCAB, 2), -torch.inf)
    assert all(torch.equal(ids[:, : IDS.shape[1]], IDS.repeat_interleave(4, 0)) for ids in seen) and len(seen) > 1
    assert not (out.sequences[:, IDS.shape[1] :] % 2).any() and out.log_evidence.isfinite().all()
    decoder = GuidedDecoder(model, [reward])
    torch.manual_seed(5)
    edited = model.generate(
        **BATCH, **DRAWN, **FEW, reward_models=[reward], logits_processor=LogitsProcessorList([forbid]), seed=4
    )
    expected = decoder.generate(IDS, MASK, logit_bias=bias, max_new_tokens=5, seed=4, **FEW)
    assert torch.equal(edited.sequences, expected.sequences)
    assert edited.log_evidence.tolist() == pytest.approx(expected.log_evidence.tolist(), abs=1e-4)


def test_a_reward_on_texts_takes_the_tokenizer_as_processing_class(model: Any, reward: Any) -> None:
    def long(texts: list[str]) -> list[float]:
        return [0.0 if len(text.split()) == 5 else -torch.inf for text in texts]

    options: dict[str, Any] = {**BATCH, **DRAWN, "particles": 16, "reward_models": [reward], "terminal": long}
    out = model.generate(**options, processing_class=word_tokenizer(), eos_token_id=[*range(3, 12)])
    ends = torch.isin(out.sequences[:, IDS.shape[1] : -1], torch.arange(3, 12))
    assert not ends.any()
    options |= {"terminal": lambda texts: [-torch.inf] * len(texts)}
    with pytest.raises(NumericalError, match="prompt 0, all particles: terminal gives -inf for every answer"):
        model.generate(**options, processing_class=word_tokenizer())
    with pytest.raises(GenARMError, match="processing_class"):
        model.generate(**options)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"do_sample": False}, "do_sample=False, and they are drawn"),
        ({"num_beams": 2}, "num_beams = 2"),
        ({"output_scores": True}, "output_scores and output_logits are not kept with particles"),
        ({"particles": 0}, "particles is 0"),
        ({"particles": True}, "particles is True"),
        ({"particles": 1.5}, "particles is 1.5"),
        ({"particles": None}, "particles"),
        ({"resample_every": 0}, "resample_every is 0"),
    ],
    ids=str,
)
def test_what_particles_cannot_do_is_refused_in_one_line(model: Any, reward: Any, settings: Any, words: str) -> None:
    with pytest.raises((GenARMError, UnsupportedGenerationError), match=words) as caught:
        model.generate(**BATCH, **{**DRAWN, **FEW, **settings}, reward_models=[reward])
    assert "\n" not in str(caught.value)
