"""Heads of other widths: the vocabulary is the base's, and a model that lacks some of it is in the way of those ids
only where it has a weight."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from families import VOCAB, left_padded, make_model, plain_greedy, random_prompts, word_tokenizer
from torch import Tensor
from transformers import WatermarkingConfig

import genarm
from genarm import GuidedDecoder

WIDE = 104  # of the base; its ids from 97 on are not the reward model's
FAVOURITE = 100
BIAS = torch.zeros(WIDE).index_fill(0, torch.tensor([FAVOURITE]), 9.0)
PROMPTS = random_prompts([6, 3, 1], seed=1)
OURS: dict[str, Any] = {"custom_generate": genarm.custom_generate}


@pytest.fixture(scope="module")
def wide() -> Any:
    """A base that says one of its last ids where it would have said the likeliest after the first prompt."""
    model = make_model("llama", seed=1, vocab=WIDE)
    with torch.no_grad():
        likeliest = int(model(PROMPTS[0][None]).logits[0, -1].argmax())
        model.lm_head.weight[FAVOURITE] = model.lm_head.weight[likeliest] * 1.5
    return model


@pytest.fixture(scope="module")
def narrow() -> Any:
    return make_model("llama", seed=2)


def log_probs(model: Any, ids: Tensor, vocab: int = WIDE) -> Tensor:
    """[V] float64: the model's own, −inf for what it does not have."""
    with torch.no_grad():
        own = model(input_ids=ids[None]).logits[0, -1, :vocab].double().log_softmax(-1)
    return torch.nn.functional.pad(own, (0, vocab - len(own)), value=-math.inf)


def oracle(models: list[Any], weights: list[float], ids: Tensor) -> Tensor:
    """[V] float64 log-probs of BIAS + Σ w_m log p_m; −inf of a model with a weight excludes, whatever its sign."""
    used = [(weight, log_probs(model, ids)) for model, weight in zip(models, weights, strict=True) if weight]
    own = [z for _, z in used]
    scores = sum((weight * z for weight, z in used), BIAS.double())
    return scores.masked_fill(torch.stack(own).isinf().any(0), -math.inf).log_softmax(-1)


@pytest.mark.filterwarnings("ignore:the base's ids")
@pytest.mark.parametrize(
    ("weight", "settings"), [(0.0, {}), (0.8, {}), (-0.8, {}), (-0.8, {"repetition_penalty": 1.3})]
)
def test_every_log_prob_is_the_oracle_s(
    cpu_path: str, wide: Any, narrow: Any, weight: float, settings: dict[str, Any]
) -> None:
    decoder = GuidedDecoder(wide, {"r": narrow})
    assert decoder.vocab_size == WIDE
    call: dict[str, Any] = {"weights": {"r": weight}, "max_new_tokens": 4, "eos_token_id": [], "logit_bias": BIAS}
    out = decoder.generate(PROMPTS, **call, **settings, return_logprobs=True)
    assert out.logprobs is not None and out.model_logprobs is not None
    drawn = torch.stack(out.tokens)
    assert bool((drawn >= VOCAB).any()) == (weight == 0)
    for row, prompt in enumerate(PROMPTS):
        for step in range(4):
            ids, token = torch.cat([prompt, drawn[row, :step]]), int(drawn[row, step])
            base, reward = out.model_logprobs[row, step].tolist()
            assert base == pytest.approx(float(log_probs(wide, ids)[token]), abs=1e-5)
            if int(ids.max()) >= VOCAB:
                assert math.isnan(reward), "a text that it cannot read"
            else:
                assert reward == pytest.approx(float(log_probs(narrow, ids)[token]), abs=1e-5)
            if not settings:
                expected = float(oracle([wide, narrow], [1.0, weight], ids)[token])
                assert float(out.logprobs[row, step]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.filterwarnings("ignore:the base's ids")
def test_weights_decide_row_by_row(engine: str, wide: Any, narrow: Any) -> None:
    """A row in which the narrow model has no weight ends on an id that it lacks, and may start with one."""
    decoder = GuidedDecoder(wide, {"r": narrow})
    prompts = [*PROMPTS[:2], torch.tensor([FAVOURITE, 5]), torch.tensor([FAVOURITE, 5])]
    weights = [{"r": value} for value in (0.0, 1.0, 0.0, 1.0)]
    out = decoder.generate(prompts, weights=weights, temperature=0.0, max_new_tokens=6, eos_token_id=FAVOURITE)
    assert list(out.errors) == [3] and "holds token id 100, outside its vocabulary of 97" in str(out.errors[3])
    for row, weight in ((0, 0.0), (1, 1.0), (2, 0.0)):
        models, values = ([wide, narrow], [1.0, 1.0]) if weight else ([wide], [1.0])
        expected = plain_greedy(models, values, prompts[row], 6, FAVOURITE, VOCAB if weight else WIDE)
        assert out.tokens[row].tolist()[: len(expected)] == expected
    assert [reason == "eos" for reason in out.finish_reasons[:3]] == [True, False, True]


def test_what_cannot_be_drawn_is_said_once_and_only_where_it_is_so(wide: Any, narrow: Any) -> None:
    decoder = GuidedDecoder(wide, {"r": narrow})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder.generate(PROMPTS, weights={"r": 0.0}, max_new_tokens=1)
    with pytest.warns(UserWarning, match=r"ids 97 to 103 cannot be drawn \(among them 100, which ends a text\)"):
        decoder.generate(PROMPTS, max_new_tokens=1, eos_token_id=FAVOURITE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder.generate(PROMPTS, max_new_tokens=1)
        GuidedDecoder(wide, {"r": narrow}, tokenizer=word_tokenizer()).generate(PROMPTS, max_new_tokens=1)  # padding


def test_a_reward_model_with_ids_of_its_own(engine: str, narrow: Any) -> None:
    """As GenARM's published one, whose padding token its base does not have."""
    reward = make_model("llama", seed=3, vocab=WIDE)
    decoder = GuidedDecoder(narrow, {"r": reward})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = decoder.generate(PROMPTS, temperature=0.0, max_new_tokens=6, return_logprobs=True, eos_token_id=[])
    assert out.logprobs is not None and out.model_logprobs is not None and decoder.vocab_size == VOCAB
    for row, prompt in enumerate(PROMPTS):
        expected = plain_greedy([narrow, reward], [1.0, 1.0], prompt, 6, None)
        assert out.tokens[row].tolist()[: len(expected)] == expected
        token = out.tokens[row][0]
        assert float(out.model_logprobs[row, 0, 1]) == pytest.approx(
            float(log_probs(reward, prompt, VOCAB)[token]), abs=1e-5
        )


@pytest.mark.parametrize(
    "keywords",
    [
        {"watermarking_config": WatermarkingConfig()},
        {"sequence_bias": {(FAVOURITE,): -5.0}},
        {"suppress_tokens": [103]},
    ],
    ids=lambda keywords: next(iter(keywords)),
)
def test_processors_see_the_base_s_width(wide: Any, narrow: Any, keywords: dict[str, Any]) -> None:
    ids, mask = left_padded(PROMPTS)
    call: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "attention_mask": mask, **keywords}
    weighted = {"reward_models": {"r": narrow}, "reward_weights": {"r": 0.0}}
    assert torch.equal(wide.generate(ids, **call), wide.generate(ids, **call, **weighted, **OURS))


def test_a_forced_id_that_a_used_model_lacks_is_drawn(wide: Any, narrow: Any) -> None:
    """Nothing else is left there, so it is in nobody's way."""
    call: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, **OURS}
    guided = {"reward_models": [narrow], "reward_weights": [1.0]}
    ids, mask = left_padded(PROMPTS)
    out, free = (
        wide.generate(ids, attention_mask=mask, forced_eos_token_id=forced, **guided, **call)
        for forced in (FAVOURITE, None)
    )
    assert out[:, -1].tolist() == [FAVOURITE] * 3 and torch.equal(out[:, :-1], free[:, :-1])
    assert not bool((free[:, 6:] >= VOCAB).any())


def test_ids_of_arguments_are_the_base_s(wide: Any, narrow: Any) -> None:
    decoder = GuidedDecoder(wide, {"r": narrow})
    with pytest.raises(genarm.GenARMError, match="ids are integers from 0 to 103"):
        decoder.generate(PROMPTS, allowed_tokens=[WIDE])
    with pytest.warns(UserWarning, match="104, which the vocabulary of 104 ids does not have: it ends no row"):
        decoder.generate(PROMPTS, eos_token_id=[WIDE, 2], weights={"r": 0.0}, max_new_tokens=1)
    out = decoder.generate(PROMPTS[:1], allowed_tokens=[FAVOURITE], weights={"r": 0.0}, max_new_tokens=2)
    assert out.tokens[0].tolist() == [FAVOURITE] * 2
    with pytest.raises(genarm.NumericalError):
        decoder.generate(PROMPTS[:1], allowed_tokens=[FAVOURITE], max_new_tokens=2)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_resized_vocabulary_is_noticed(engine: str, family: str, tmp_path: Path) -> None:
    """Up and down, of a separate head and a tied one, in a living decoder and between two calls of the drop-in."""
    model = make_model(family, seed=1, vocab=96, tie=family == "gpt2")
    decoder, prompt = GuidedDecoder(model), PROMPTS[0][None] % 60
    call: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    for size in (96, 104, 64):
        model.resize_token_embeddings(size, mean_resizing=False)
        with torch.no_grad():  # the last id is what it says
            favourite = int(model.generate(prompt, **call)[0, 6])
            model.get_output_embeddings().weight[size - 1] = model.get_output_embeddings().weight[favourite] * 5
        expected = model.generate(prompt, **call)
        assert decoder.vocab_size == size and size - 1 in expected
        assert torch.equal(model.generate(prompt, **call, **OURS), expected), size
        assert torch.equal(
            decoder.generate(prompt, temperature=0.0, max_new_tokens=5, eos_token_id=[]).sequences, expected
        )


def test_a_resized_reward_model_is_noticed(wide: Any) -> None:
    reward = make_model("llama", seed=2)
    decoder = GuidedDecoder(wide, {"r": reward})
    call: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 4, "eos_token_id": []}
    for size in (VOCAB, WIDE, VOCAB):
        reward.resize_token_embeddings(size, mean_resizing=False)
        with torch.no_grad():
            reward.lm_head.weight[VOCAB:] = 0.0
        out = decoder.generate(PROMPTS[:1], logit_bias=BIAS * 3, **call)
        assert (out.tokens[0].tolist() == [FAVOURITE] * 4) == (size == WIDE)
