"""Sampling through the drop-in: the caller's generation config decides what is drawn from, and torch's seed draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from chi_square import assert_drawn_from, assert_not_drawn_from
from families import VOCAB, make_model
from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from genarm import custom_generate
from genarm.dropin import Record

DRAWS = 1500
PROMPT = torch.tensor([[5, 9, 33, 7]])


@pytest.fixture(scope="module")
def model() -> Any:
    model = make_model("llama", seed=1, hidden=16)
    with torch.no_grad():
        model.lm_head.weight.mul_(4.0)
    return model


@pytest.fixture(scope="module")
def reward() -> Any:
    return make_model("llama", seed=2, hidden=16)


@pytest.fixture(scope="module")
def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=PROMPT).logits[0, -1].double()


def first_tokens(model: Any, **options: Any) -> Tensor:
    torch.manual_seed(1)
    settings: dict[str, Any] = {"do_sample": True, "max_new_tokens": 1, **options}
    out = model.generate(PROMPT, num_return_sequences=DRAWS, custom_generate=custom_generate, **settings)
    return out[:, -1]


def test_the_top_k_of_50_that_sampling_implies_is_honoured(model: Any, logits: Tensor) -> None:
    best = logits.topk(50).indices
    cut = torch.full_like(logits, -torch.inf).index_copy(0, best, logits[best])
    hot = {"temperature": 2.0}  # so that the tail has a mass that shows
    assert_drawn_from(first_tokens(model, **hot), (cut / 2).softmax(0))
    assert_drawn_from(first_tokens(model, **hot, top_k=0), (logits / 2).softmax(0))
    assert_not_drawn_from(first_tokens(model, **hot, top_k=0), (cut / 2).softmax(0))


def test_rewards_shift_what_the_config_then_cuts(model: Any, reward: Any, logits: Tensor) -> None:
    with torch.no_grad():
        guided = logits + 3.0 * reward(input_ids=PROMPT).logits[0, -1].double()
    cut = torch.full_like(guided, -torch.inf)
    best = guided.topk(10).indices
    cut[best] = guided[best]
    tokens = first_tokens(model, reward_models=[reward], reward_weights=[3.0], top_k=10, temperature=1.5)
    assert_drawn_from(tokens, (cut / 1.5).softmax(0))
    assert set(best.tolist()) != set(logits.topk(10).indices.tolist())


def processed(logits: Tensor, *processors: Any) -> Tensor:
    return LogitsProcessorList(list(processors))(PROMPT, logits[None].float())[0].double().softmax(0)  # type: ignore[arg-type]


CONFIGS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "temperature": ({"temperature": 0.6}, [TemperatureLogitsWarper(0.6)]),
    "top_p": ({"top_p": 0.7}, [TopPLogitsWarper(0.7)]),
    "min_p": ({"min_p": 0.1}, [MinPLogitsWarper(0.1)]),
    "all of them": (
        {"temperature": 1.4, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
        [TemperatureLogitsWarper(1.4), TopKLogitsWarper(20), TopPLogitsWarper(0.8), MinPLogitsWarper(0.05)],
    ),
    "typical_p": ({"typical_p": 0.5}, [TypicalLogitsWarper(0.5)]),
    "epsilon_cutoff": ({"epsilon_cutoff": 0.02}, [EpsilonLogitsWarper(0.02)]),
    "eta_cutoff": ({"eta_cutoff": 0.9}, [EtaLogitsWarper(0.9)]),
    "top_p before typical_p": ({"top_p": 0.8, "typical_p": 0.6}, [TopPLogitsWarper(0.8), TypicalLogitsWarper(0.6)]),
}


@pytest.mark.parametrize(("options", "processors"), CONFIGS.values(), ids=CONFIGS.keys())
def test_the_callers_config_gives_the_distribution_of_transformers(
    model: Any, logits: Tensor, options: dict[str, Any], processors: list[Any]
) -> None:
    expected = processed(logits, *processors)
    tokens = first_tokens(model, **{"top_k": 0, **options})
    assert_drawn_from(tokens, expected)
    if set(options) != {"temperature"}:
        assert int((expected == 0).sum()) > VOCAB // 4, "the filter is to cut something"
    assert_not_drawn_from(tokens, logits.softmax(0))


def test_penalties_come_before_the_warpers(model: Any, logits: Tensor) -> None:
    scores = logits.clone()
    for token in set(PROMPT[0].tolist()):
        scores[token] = scores[token] * 0.5 if scores[token] < 0 else scores[token] / 0.5
    expected = processed(scores, TemperatureLogitsWarper(0.8), TopKLogitsWarper(12))
    assert_drawn_from(first_tokens(model, temperature=0.8, top_k=12, repetition_penalty=0.5), expected)


def test_torchs_seed_governs_what_is_drawn(model: Any) -> None:
    def draw(torch_seed: int, **options: Any) -> list[int]:
        torch.manual_seed(torch_seed)
        out: Tensor = model.generate(
            PROMPT, do_sample=True, max_new_tokens=12, custom_generate=custom_generate, **options
        )
        return out[0].tolist()

    assert draw(0) == draw(0) != draw(1)
    assert draw(0, seed=5) == draw(1, seed=5) != draw(0, seed=6)
    torch.manual_seed(0)
    twice = [
        model.generate(PROMPT, do_sample=True, max_new_tokens=12, custom_generate=custom_generate).tolist()
        for _ in range(2)
    ]
    assert twice[0] != twice[1], "the generator moves on"


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.3, "top_k": 25, "top_p": 0.9, "min_p": 0.02},
        {"temperature": 0.7},
        {"top_p": 0.8, "repetition_penalty": 1.2},
    ],
)
def test_native_and_eager_warpers_draw_the_same_tokens(
    model: Any, reward: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking for the scores sends every processor through transformers' own code."""
    call: dict[str, Any] = {
        "inputs": PROMPT.expand(40, -1), "do_sample": True, "max_new_tokens": 8, "seed": 3, "reward_models": [reward],
        "reward_weights": [1.5], "custom_generate": custom_generate, **options,
    }  # fmt: skip
    native = model.generate(**call)
    eager = model.generate(**call, return_dict_in_generate=True, output_scores=True)
    assert torch.equal(native, eager.sequences)
    monkeypatch.setattr(Record, "take_native", lambda self, do_sample: {})
    assert torch.equal(native, model.generate(**call))
    for step, scores in enumerate(eager.scores):
        drawn = eager.sequences[:, PROMPT.shape[1] + step]
        live = (eager.sequences[:, PROMPT.shape[1] : PROMPT.shape[1] + step] != 2).all(1)
        assert bool((scores[torch.arange(40), drawn] > -torch.inf)[live].all())


def test_scores_are_what_was_drawn_from(model: Any, reward: Any, logits: Tensor) -> None:
    out = model.generate(
        PROMPT, do_sample=True, max_new_tokens=1, temperature=0.5, top_k=7, reward_models=[reward], seed=0,
        reward_weights=[2.0], return_dict_in_generate=True, output_scores=True, output_logits=True,
        custom_generate=custom_generate,
    )  # fmt: skip
    with torch.no_grad():
        guided = logits + 2.0 * reward(input_ids=PROMPT).logits[0, -1].double()
    torch.testing.assert_close(out.logits[0][0].double(), guided, atol=1e-4, rtol=0)
    expected = processed(guided, TemperatureLogitsWarper(0.5), TopKLogitsWarper(7))
    torch.testing.assert_close(out.scores[0][0].double().softmax(0), expected, atol=1e-4, rtol=0)


def test_only_warpers_in_the_samplers_order_are_left_to_it() -> None:
    def taken(*processors: Any) -> tuple[list[str], list[str]]:
        record = Record(PROMPT, LogitsProcessorList(list(processors)), None, False, False)  # type: ignore[arg-type]
        return sorted(record.take_native(True)), [type(processor).__name__ for processor in record.processors]

    heat, top_k, top_p, typical = (
        TemperatureLogitsWarper(0.5), TopKLogitsWarper(5), TopPLogitsWarper(0.5), TypicalLogitsWarper(0.5)
    )  # fmt: skip
    assert taken(heat, top_k, top_p) == (["temperature", "top_k", "top_p"], [])
    assert taken(top_p, top_k) == (["top_k"], ["TopPLogitsWarper"])
    assert taken(heat, typical, top_p) == (["top_p"], ["TemperatureLogitsWarper", "TypicalLogitsWarper"])
    assert taken(heat, typical) == ([], ["TemperatureLogitsWarper", "TypicalLogitsWarper"])
    assert taken(TopKLogitsWarper(5, min_tokens_to_keep=2)) == ([], ["TopKLogitsWarper"])
    assert taken(TopPLogitsWarper(0.5, filter_value=-1e4)) == ([], ["TopPLogitsWarper"])
    assert taken(heat, heat) == (["temperature"], ["TemperatureLogitsWarper"])
