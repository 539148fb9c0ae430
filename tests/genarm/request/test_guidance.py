"""Weights, beta, temperature, filters, biases and seeds: every form the contract allows, and no other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from torch import Tensor

import genarm_kernels
from genarm import GenARMError, GuidedDecoder, InvalidArgumentError, RewardNameError
from genarm.request.guidance import Guidance, seed_rows, top_k_rows, weight_matrix

CPU = torch.device("cpu")
NAMES = ("a", "b")
NAN, INF = math.nan, math.inf


def matrix(weights: Any, beta: Any = 1.0, base_weight: Any = 1.0, names: tuple[str, ...] = NAMES) -> list[list[float]]:
    found = weight_matrix(weights, names, beta, base_weight, 3, CPU)
    assert found.dtype == torch.float32
    return found.tolist()


@pytest.mark.parametrize(
    "weights",
    [
        {"a": 2.0, "b": -1.0},
        {"b": -1, "a": 2},
        {"a": torch.tensor(2.0), "b": torch.tensor([-1])},
        [2.0, -1.0],
        (2, -1),
        torch.tensor([2.0, -1.0]),
        torch.tensor([[2.0, -1.0]] * 3, dtype=torch.float64),
        [[2.0, -1.0]] * 3,
        [{"a": 2.0, "b": -1.0}] * 3,
    ],
)
def test_every_form_of_weights_means_the_same(weights: Any) -> None:
    assert matrix(weights) == [[1.0, 2.0, -1.0]] * 3


def test_weights_can_differ_from_row_to_row() -> None:
    rows = [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}, {"b": 3.0, "a": 2.0}]
    expected = [[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [1.0, 2.0, 3.0]]
    assert matrix(rows) == expected
    assert matrix(torch.tensor(expected)[:, 1:]) == expected


def test_the_default_weight_is_one_each() -> None:
    assert matrix(None) == [[1.0, 1.0, 1.0]] * 3
    assert matrix(None, names=()) == matrix({}, names=()) == matrix([], names=()) == [[1.0]] * 3


@pytest.mark.parametrize("beta", [0.5, torch.tensor(0.5), [0.5, 0.5, 0.5], torch.tensor([0.5, 0.5, 0.5])])
def test_beta_divides_the_reward_weights_only(beta: Any) -> None:
    assert matrix({"a": 2.0, "b": -1.0}, beta) == [[1.0, 4.0, -2.0]] * 3


def test_the_base_weight_is_a_number_or_one_a_row() -> None:
    assert matrix([1.0, 1.0], 2.0, -0.5) == [[-0.5, 0.5, 0.5]] * 3
    assert matrix([1.0, 1.0], 1.0, [0.0, -1.0, 2.0]) == [[0.0, 1.0, 1.0], [-1.0, 1.0, 1.0], [2.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("weights", "error", "cause"),
    [
        ({"a": 1.0}, RewardNameError, "no entry for 'b'"),
        ({}, RewardNameError, "no entry for 'a'"),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, RewardNameError, "'c', which is not loaded: the reward models are a, b"),
        ([{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}], InvalidArgumentError, "2 dicts for 3 sequences"),
        ([{"a": 1.0, "b": 1.0}, {"a": 1.0}, {"a": 1.0, "b": 1.0}], RewardNameError, "no entry for 'b'"),
        ({"a": NAN, "b": 1.0}, InvalidArgumentError, "'a' in row 0 is nan"),
        ({"a": 1.0, "b": -INF}, InvalidArgumentError, "'b' in row 0 is -inf"),
        (torch.tensor([[1.0, 1.0], [1.0, NAN], [1.0, 1.0]]), InvalidArgumentError, "'b' in row 1 is nan"),
        ({"a": 1e300, "b": 1.0}, InvalidArgumentError, "'a' in row 0 is beyond float32"),
        ({"a": "strong", "b": 1.0}, InvalidArgumentError, "'a' is 'strong'"),
        ({"a": True, "b": 1.0}, InvalidArgumentError, "'a' is True"),
        ({"a": torch.tensor([1.0, 2.0]), "b": 1.0}, InvalidArgumentError, "'a' is tensor"),
        ({"a": None, "b": 1.0}, InvalidArgumentError, "'a' is None"),
        (1.0, InvalidArgumentError, "shape []"),
        ([1.0], InvalidArgumentError, "shape [1]"),
        ([1.0, 2.0, 3.0], InvalidArgumentError, "shape [3]"),
        (torch.ones(2, 3), InvalidArgumentError, "shape [2, 3]"),
        ("ab", InvalidArgumentError, "'ab'"),
        ([{"a": 1.0, "b": 1.0}, 1.0, 2.0], InvalidArgumentError, "pass a dict"),
        ({1.0, 2.0}, InvalidArgumentError, "pass a dict"),
    ],
)
def test_bad_weights_are_named_in_one_line(weights: Any, error: type[GenARMError], cause: str) -> None:
    with pytest.raises(error) as caught:
        matrix(weights)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "cause"),
    [
        ("beta", 0, "beta is 0"),
        ("beta", -1.0, "beta is -1.0"),
        ("beta", [1.0, 0.0], "beta is 0"),
        ("beta", NAN, "beta is nan"),
        ("beta", 1e-42, "beyond float32"),
        ("base_weight", INF, "base_weight is inf"),
        ("base_weight", [1.0, NAN], "base_weight is nan"),
        ("base_weight", 1e39, "the base in row 0 is beyond float32"),
        ("base_weight", [1.0], "shape [1]"),
        ("temperature", -0.5, "temperature is -0.5"),
        ("temperature", NAN, "temperature is nan"),
        ("temperature", INF, "temperature is inf"),
        ("temperature", "hot", "'hot'"),
        ("temperature", None, "None"),
        ("temperature", [1.0, 1.0, 1.0], "shape [3]"),
        ("temperature", [[1.0, 1.0]], "shape [1, 2]"),
        ("temperature", ["hot", 1.0], "temperature"),
        ("temperature", True, "True"),
        ("temperature", torch.ones(2, device="meta"), "meta"),
        ("top_k", -1, "top_k is -1"),
        ("top_k", 2.5, "top_k is 2.5"),
        ("top_k", [1, 2.5], "whole number"),
        ("top_k", INF, "top_k is inf"),
        ("top_p", -0.1, "top_p is -0.1"),
        ("min_p", 1.5, "min_p is 1.5: pass a finite number from 0 to 1"),
        ("min_p", -0.1, "min_p"),
        ("base_min_p", 2, "base_min_p is 2"),
        ("base_top_p", NAN, "base_top_p is nan"),
        ("repetition_penalty", 0.0, "repetition_penalty is 0"),
        ("repetition_penalty", [1.0, -1.0], "repetition_penalty is -1"),
        ("seed", 1.5, "seed is 1.5"),
        ("seed", True, "seed is True"),
        ("seed", "lucky", "'lucky'"),
        ("seed", [1, 2, 3], "[3]"),
        ("seed", ["a", "b"], "seed"),
        ("seed", [2**70, 1], "seed"),
        ("seed", torch.ones(2), "float32"),
        ("seed", torch.tensor(1.5), "seed is 1.5"),
        ("logit_bias", {97: 1.0}, "token 97: ids are integers from 0 to 96"),
        ("logit_bias", {-1: 1.0}, "token -1"),
        ("logit_bias", {3: "x"}, "logit_bias[3]"),
        ("logit_bias", {3: NAN}, "NaN"),
        ("logit_bias", {3: INF}, "+inf"),
        ("logit_bias", [0.0] * 97, "list"),
        ("logit_bias", torch.zeros(3, 97), "[3, 97]"),
        ("logit_bias", torch.zeros(97, device="meta"), "meta"),
        ("allowed_tokens", [], "at least one"),
        ("allowed_tokens", [97], "token 97"),
        ("allowed_tokens", [1.5], "list of token ids"),
        ("allowed_tokens", [[1, 2]], "list of token ids"),
        ("allowed_tokens", {1, 2}, "allowed_tokens"),
        ("allowed_tokens", "abc", "allowed_tokens"),
        ("eos_token_id", 2.0, "eos_token_id is 2.0"),
        ("eos_token_id", "ab", "eos_token_id"),
        ("eos_token_id", [None], "eos_token_id"),
        ("eos_token_id", True, "eos_token_id"),
        ("stop", 5, "stop"),
        ("stop", [5], "[[id, id, …], …]"),
        ("stop", "ab", "[[id, id, …], …]"),
        ("stop", ["ab"], "[[id, id, …], …]"),
        ("stop", [[]], "empty sequence"),
        ("stop", [[1.5]], "stop is [1.5]"),
        ("max_new_tokens", -1, "max_new_tokens is -1"),
        ("max_new_tokens", 2.0, "max_new_tokens is 2.0"),
        ("max_new_tokens", None, "max_new_tokens is None"),
        ("reward_prompts", {"x": [[1], [2]]}, "'x', which is not loaded"),
        ("reward_prompts", {"r": [[1]]}, "1 rows, input_ids 2"),
        ("reward_prompts", {"r": None}, "reward_prompts['r']"),
        ("reward_prompts", [[[1], [2]]], "reward_prompts is a list"),
        ("reward_prompts", torch.ones(2, 2, dtype=torch.int64), "reward_prompts is a Tensor"),
        ("speculate", 4, "speculate is not available"),
        ("temprature", 1.0, "no argument 'temprature'"),
    ],
)
def test_bad_options_are_named_in_one_line(option: str, value: Any, cause: str, pair: GuidedDecoder) -> None:
    ids = torch.tensor([[5, 6], [7, 8]])
    for call in (pair.generate, pair.stream):
        with pytest.raises(GenARMError) as caught:
            call(ids, **{"max_new_tokens": 2, option: value})
        text = str(caught.value)
        assert cause in text
        assert "\n" not in text


@pytest.fixture(scope="module")
def pair() -> GuidedDecoder:
    return GuidedDecoder(make_model("llama", seed=1), {"r": make_model("llama", seed=2, hidden=16)})


def test_a_seed_is_a_batch_seed_and_a_tensor_holds_row_seeds() -> None:
    expected = genarm_kernels.row_seeds(7, 3).tolist()
    for seed in (7, torch.tensor(7), expected, torch.tensor(expected)):
        assert seed_rows(seed, 3, CPU).tolist() == expected
    assert seed_rows(-5, 3, CPU).tolist() == genarm_kernels.row_seeds(-5, 3).tolist()
    assert len(set(seed_rows(None, 64, CPU).tolist())) == 64


def test_top_k_beyond_the_vocabulary_is_off_however_large() -> None:
    assert top_k_rows(10**30, 2, 97, CPU) == 97
    limited = top_k_rows(torch.tensor([5, 10**18]), 2, 97, CPU)
    assert isinstance(limited, Tensor)
    assert limited.tolist() == [5, 97]


def test_rows_are_selected_from_everything_that_has_rows() -> None:
    guidance = Guidance(
        weights=torch.arange(6.0).view(3, 2),
        seeds=torch.tensor([10, 11, 12]),
        temperature=torch.tensor([1.0, 2.0, 3.0]),
        top_k=7,
        bias=torch.arange(3.0).expand(3, 3).T,
    )
    picked = guidance.select(torch.tensor([2, 0]))
    assert picked.weights.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert picked.seeds.tolist() == [12, 10]
    assert torch.as_tensor(picked.temperature).tolist() == [3.0, 1.0]
    assert picked.top_k == 7
    assert picked.bias is not None and picked.bias.tolist() == [[2.0] * 3, [0.0] * 3]


@pytest.mark.parametrize("size", [3, 4])
def test_a_bias_for_the_vocabulary_is_not_taken_for_rows(size: int) -> None:
    """[V] with V = B is one bias for all rows."""
    guidance = Guidance(weights=torch.ones(3, 1), seeds=torch.arange(3), bias=torch.arange(float(size)))
    bias = guidance.select(torch.tensor([1])).bias
    assert bias is not None and bias.tolist() == list(range(size))


def greedy(decoder: GuidedDecoder, **options: Any) -> list[list[int]]:
    prompts = random_prompts([5, 9], seed=1)
    out = decoder.generate(prompts, **{"temperature": 0.0, "max_new_tokens": 8, "eos_token_id": [], **options})
    return [row.tolist() for row in out.tokens]


def test_logit_bias_takes_ids_or_rows(pair: GuidedDecoder) -> None:
    free = greedy(pair)
    banned = dict.fromkeys(free[0], -INF)
    rows = torch.zeros(2, 97)
    rows[0, list(banned)] = -INF
    first = greedy(pair, logit_bias=rows)
    assert not set(first[0]) & set(banned)
    assert first[1] == free[1]
    both = greedy(pair, logit_bias=banned)
    assert both[0] == first[0]
    assert both == greedy(pair, logit_bias=rows[0]) == greedy(pair, logit_bias=rows[0].double())
    assert greedy(pair, logit_bias={5: 1000.0}) == [[5] * 8] * 2


def test_allowed_tokens_are_the_only_ones_drawn(pair: GuidedDecoder) -> None:
    for allowed in ([4, 9, 11], torch.tensor([4, 9, 11]), (4, 9, 11), range(4, 12)):
        drawn = greedy(pair, allowed_tokens=allowed, temperature=2.0)
        assert {token for row in drawn for token in row} <= set(
            allowed if not isinstance(allowed, Tensor) else [4, 9, 11]
        )
    assert greedy(pair, allowed_tokens=[4, 9], logit_bias={4: -INF}) == [[9] * 8] * 2


def test_a_row_with_nothing_left_to_draw_fails_alone(pair: GuidedDecoder) -> None:
    bias = torch.zeros(2, 97)
    bias[1, [4, 9]] = -INF
    ids = torch.tensor([[5, 6], [7, 8]])
    out = pair.generate(ids, allowed_tokens=[4, 9], logit_bias=bias, max_new_tokens=4, eos_token_id=[])
    assert out.finish_reasons == ["length", "error"]
    assert list(out.errors) == [1]
    text = str(out.errors[1])
    assert text.startswith("row 1, new token 0: every token is masked out")
    assert "\n" not in text


def test_the_repetition_penalty_is_a_number_or_one_a_row(pair: GuidedDecoder) -> None:
    plain, strong = greedy(pair), greedy(pair, repetition_penalty=3.0)
    assert plain[0] != strong[0] and plain[1] != strong[1]
    assert greedy(pair, repetition_penalty=[1.0, 3.0]) == [plain[0], strong[1]]
    assert greedy(pair, repetition_penalty=torch.tensor([3.0, 1.0])) == [strong[0], plain[1]]


def test_the_repetition_penalty_acts_on_the_unnormalised_combination(pair: GuidedDecoder) -> None:
    """Held against the penalty written out in float64 on s = bias + Σ w_m z_m."""
    base, reward = (model.module for model in pair.models)
    prompt = random_prompts([9], seed=1)[0]
    ids, tokens = prompt, []
    bias = torch.zeros(97, dtype=torch.float64)
    bias[prompt[3]] = 4.0
    for _ in range(8):
        with torch.no_grad():
            scores = sum(
                weight * model(input_ids=ids[None]).logits[0, -1].double()
                for model, weight in ((base, 1.0), (reward, -1.5))
            )
        scores = scores + bias
        for token in set(ids.tolist()):
            scores[token] = scores[token] * 1.7 if scores[token] < 0 else scores[token] / 1.7
        assert float(scores.topk(2).values.diff().abs()) > 1e-4
        tokens.append(int(scores.argmax()))
        ids = torch.cat([ids, torch.tensor(tokens[-1:])])
    out = pair.generate(
        [prompt], weights=[-1.5], logit_bias={int(prompt[3]): 4.0}, repetition_penalty=1.7, temperature=0.0,
        max_new_tokens=8, eos_token_id=[],
    )  # fmt: skip
    assert out.tokens[0].tolist() == tokens


def test_a_masked_token_of_a_weighted_model_is_excluded_whatever_the_sign() -> None:
    base, reward = make_model("llama", seed=1), make_model("llama", seed=2)
    decoder = GuidedDecoder(base, {"r": reward})
    favourite = greedy(decoder, weights=[-2.0], max_new_tokens=1)[0][0]

    def mask(_module: Any, _args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[..., favourite] = -INF
        return output

    for masked in (reward, base):
        hook = masked.lm_head.register_forward_hook(mask)
        for penalty in (1.0, 1.2):  # in the sampler, and on the edited scores
            for weight in (-2.0, 2.0):
                assert favourite not in greedy(decoder, weights=[weight], repetition_penalty=penalty)[0]
        hook.remove()
    hook = reward.lm_head.register_forward_hook(mask)
    assert greedy(decoder, weights=[0.0]) == greedy(GuidedDecoder(base)), "a model of weight 0 masks nothing"
    hook.remove()
    hook = base.lm_head.register_forward_hook(mask)
    for penalty in (1.0, 1.2):
        assert favourite not in greedy(decoder, weights=[1.0], base_weight=0.0, repetition_penalty=penalty)[0]
    hook.remove()


def test_temperature_zero_is_greedy_row_by_row_and_the_lowest_id_wins_a_tie(pair: GuidedDecoder) -> None:
    mixed = greedy(pair, temperature=[0.0, 1.0], seed=3)
    assert mixed[0] == greedy(pair)[0]
    assert mixed[1] == greedy(pair, temperature=1.0, seed=3)[1] != greedy(pair)[1]
    flat = make_model("llama", seed=1)
    with torch.no_grad():
        flat.lm_head.weight.zero_()
    assert greedy(GuidedDecoder(flat)) == [[0] * 8] * 2
    assert greedy(GuidedDecoder(flat), allowed_tokens=[40, 31, 50]) == [[31] * 8] * 2


@pytest.mark.parametrize(
    "options",
    [
        {"logit_bias": {5: 1e39}},
        {"logit_bias": {5: 10**400}},
        {"weights": {"r": 10**400}},
        {"weights": [[10**400]]},
        {"beta": 10**400},
        {"temperature": 10**400},
        {"top_k": 10**400},
        {"top_p": [10**400]},
    ],
)
def test_a_number_too_large_for_a_float_is_refused_in_one_line(options: dict[str, Any]) -> None:
    decoder = GuidedDecoder(make_model("llama", seed=1), {"r": make_model("llama", seed=2)})
    with pytest.raises(InvalidArgumentError) as caught:
        decoder.generate([[5]], max_new_tokens=1, **options)
    assert "\n" not in str(caught.value)


def test_numpy_integers_are_integers() -> None:
    numpy = pytest.importorskip("numpy")
    decoder = GuidedDecoder(make_model("llama", seed=1))
    out = decoder.generate([[5]], max_new_tokens=numpy.int64(3), eos_token_id=numpy.int64(96), stop=[[numpy.int32(95)]])
    assert 1 <= len(out.tokens[0]) <= 3
