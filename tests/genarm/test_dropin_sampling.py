"""Sampling through the drop-in: the caller's generation config decides what is drawn from, and torch's seed draws."""

from __future__ import annotations

import copy
from collections import Counter
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
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from genarm import custom_generate

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


def processed(logits: Tensor, *processors: Any) -> Tensor:
    return LogitsProcessorList(list(processors))(PROMPT, logits[None].float())[0].double().softmax(0)  # type: ignore[arg-type]


CONFIGS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "temperature": ({"temperature": 0.6, "top_k": 0}, [TemperatureLogitsWarper(0.6)]),
    "the top 50 that sampling implies": ({"temperature": 2.0}, [TemperatureLogitsWarper(2.0), TopKLogitsWarper(50)]),
    "all of the sampler's": (
        {"temperature": 1.4, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
        [TemperatureLogitsWarper(1.4), TopKLogitsWarper(20), TopPLogitsWarper(0.8), MinPLogitsWarper(0.05)],
    ),
    "penalties before warpers": (
        {"temperature": 0.8, "top_k": 12, "repetition_penalty": 0.5},
        [RepetitionPenaltyLogitsProcessor(0.5), TemperatureLogitsWarper(0.8), TopKLogitsWarper(12)],
    ),
    "epsilon_cutoff": ({"epsilon_cutoff": 0.02, "top_k": 0}, [EpsilonLogitsWarper(0.02)]),
    "eta_cutoff": ({"eta_cutoff": 0.9, "top_k": 0}, [EtaLogitsWarper(0.9)]),
    "top_p before typical_p": (
        {"top_p": 0.8, "typical_p": 0.6, "top_k": 0},
        [TopPLogitsWarper(0.8), TypicalLogitsWarper(0.6)],
    ),
}


@pytest.mark.parametrize(("options", "processors"), CONFIGS.values(), ids=CONFIGS.keys())
def test_the_callers_config_gives_the_distribution_of_transformers(
    model: Any, logits: Tensor, options: dict[str, Any], processors: list[Any]
) -> None:
    tokens, expected = first_tokens(model, **options), processed(logits, *processors)
    assert_drawn_from(tokens, expected)
    assert_not_drawn_from(tokens, logits.softmax(0))
    if len(options) > 1 and options.get("top_k", 50) == 50:
        assert int((expected == 0).sum()) > VOCAB // 4, "the filter is to cut something"


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


def warped(model: Any, *warpers: Any, scores: bool = False, **options: Any) -> Any:
    """As ``generate`` calls the drop-in, with the warpers that a config would give or a caller puts in himself."""
    config = copy.deepcopy(model.generation_config)
    config.update(do_sample=True, max_length=10, return_dict_in_generate=scores, output_scores=scores)
    processors = LogitsProcessorList(list(warpers))
    return custom_generate(model, PROMPT.expand(40, -1), processors, generation_config=config, seed=3, **options)


HEAT, TOP_K, TOP_P, MIN_P = (
    TemperatureLogitsWarper(0.5), TopKLogitsWarper(25), TopPLogitsWarper(0.7), MinPLogitsWarper(0.02)
)  # fmt: skip
PENALTY, TYPICAL = RepetitionPenaltyLogitsProcessor(1.2), TypicalLogitsWarper(0.7)
# warpers in an order -> those that the sampler takes over: the last ones, as long as they stand in its own order
ORDERS: dict[str, tuple[list[Any], list[Any]]] = {
    "in order": ([HEAT, TOP_K, TOP_P, MIN_P], [HEAT, TOP_K, TOP_P, MIN_P]),
    "after a penalty": ([PENALTY, TOP_P], [TOP_P]),
    "out of order": ([TOP_P, TOP_K], [TOP_K]),
    "one twice": ([HEAT, HEAT], [HEAT]),
    "behind another": ([HEAT, TYPICAL, TOP_P], [TOP_P]),
    "before another": ([HEAT, TYPICAL], []),
    "with a floor": ([TopPLogitsWarper(0.2, min_tokens_to_keep=20)], []),
    "with a value": ([TopKLogitsWarper(25, filter_value=0.0)], []),
}


@pytest.mark.parametrize(("warpers", "native"), ORDERS.values(), ids=ORDERS.keys())
def test_warpers_in_any_order_draw_what_their_own_code_draws(
    model: Any, reward: Any, warpers: list[Any], native: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking for the scores sends every processor through transformers' own code."""
    guide: dict[str, Any] = {"reward_models": [reward], "reward_weights": [1.5]}
    eager = warped(model, *warpers, scores=True, **guide)
    runs: Counter[type] = Counter()
    for kind in {type(warper) for warper in warpers}:
        own = kind.__call__

        def counted(self: Any, *args: Any, own: Any = own) -> Tensor:
            runs[type(self)] += 1
            found: Tensor = own(self, *args)
            return found

        monkeypatch.setattr(kind, "__call__", counted)
    found = warped(model, *warpers, **guide)
    assert torch.equal(found, eager.sequences)
    steps = found.shape[1] - PROMPT.shape[1]
    left = Counter(type(warper) for warper in warpers) - Counter(type(warper) for warper in native)
    assert runs == Counter({kind: steps * count for kind, count in left.items()})
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
