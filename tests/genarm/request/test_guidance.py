"""Weights, beta, temperature, filters, biases and seeds: every form the contract allows, and what each does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from torch import Tensor

import genarm_kernels
from genarm import GenARMError, GuidedDecoder, InvalidArgumentError, RewardNameError
from genarm.request.guidance import seed_rows, top_k_rows, weight_matrix

CPU = torch.device("cpu")
NAMES = ("a", "b")
NAN, INF = math.nan, math.inf


def matrix(weights: Any, beta: Any = 1.0, base_weight: Any = 1.0, names: tuple[str, ...] = NAMES) -> list[list[float]]:
    found = weight_matrix(weights, names, beta, base_weight, 3, CPU)
    assert found.dtype == torch.float32
    return found.tolist()


def test_every_form_of_weights_means_the_same() -> None:
    for weights in (
        {"b": -1, "a": 2},
        {"a": torch.tensor(2.0), "b": torch.tensor([-1])},
        (2, -1),
        torch.tensor([2.0, -1.0]),
        torch.tensor([[2.0, -1.0]] * 3, dtype=torch.float64),
        [[2.0, -1.0]] * 3,
        [{"a": 2.0, "b": -1.0}] * 3,
    ):
        assert matrix(weights) == [[1.0, 2.0, -1.0]] * 3
    assert matrix(None) == [[1.0, 1.0, 1.0]] * 3, "the default is 1 each"
    assert matrix({"b": 3.0}) == [[1.0, 0.0, 3.0]] * 3, "what a dict does not name has no weight"
    assert matrix([{"a": 1.0}, {}, {"b": 1.0}]) == [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 1.0]]
    assert matrix(None, names=()) == matrix({}, names=()) == matrix([], names=()) == [[1.0]] * 3


def test_weights_may_differ_from_row_to_row_and_beta_divides_all_but_the_bases() -> None:
    rows = [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}, {"b": 3.0, "a": 2.0}]
    expected = [[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [1.0, 2.0, 3.0]]
    assert matrix(rows) == matrix(torch.tensor(expected)[:, 1:]) == expected
    for beta in (0.5, torch.tensor(0.5), [0.5, 0.5, 0.5], torch.tensor([0.5, 0.5, 0.5])):
        assert matrix({"a": 2.0, "b": -1.0}, beta) == [[1.0, 4.0, -2.0]] * 3
    assert matrix([1.0, 1.0], 2.0, -0.5) == [[-0.5, 0.5, 0.5]] * 3
    assert matrix([1.0, 1.0], 1.0, [0.0, -1.0, 2.0]) == [[0.0, 1.0, 1.0], [-1.0, 1.0, 1.0], [2.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("weights", "error", "cause"),
    [
        ({"aa": 1.0}, RewardNameError, "'aa', which is not loaded: did you mean 'a'? the reward models are a, b"),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, RewardNameError, "'c', which is not loaded: the reward models are a, b"),
        ([{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}], InvalidArgumentError, "2 dicts for 3 sequences"),
        (torch.tensor([[1.0, 1.0], [1.0, NAN], [1.0, 1.0]]), InvalidArgumentError, "'b' in row 1 is nan"),
        ({"a": 1e300, "b": 1.0}, InvalidArgumentError, "'a' in row 0 is beyond float32"),
        ({"a": True, "b": 1.0}, InvalidArgumentError, "'a' is True"),
        ({"a": torch.tensor([1.0, 2.0]), "b": 1.0}, InvalidArgumentError, "'a' is tensor"),
        ([1.0, 2.0, 3.0], InvalidArgumentError, "shape [3]"),
        ([[10**400, 1.0]] * 3, InvalidArgumentError, "pass a dict"),
    ],
)
def test_bad_weights_are_named_in_one_line(weights: Any, error: type[GenARMError], cause: str) -> None:
    with pytest.raises(error) as caught:
        matrix(weights)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_seed_is_a_batch_seed_and_a_tensor_holds_row_seeds() -> None:
    expected = genarm_kernels.row_seeds(7, 3).tolist()
    for seed in (7, torch.tensor(7), expected, torch.tensor(expected)):
        assert seed_rows(seed, 3, CPU).tolist() == expected
    assert seed_rows(-5, 3, CPU).tolist() == genarm_kernels.row_seeds(-5, 3).tolist()
    assert len(set(seed_rows(None, 64, CPU).tolist())) == 64
    torch.manual_seed(0)
    one, two = (seed_rows(None, 3, CPU).tolist() for _ in range(2))
    torch.manual_seed(0)
    assert seed_rows(None, 3, CPU).tolist() == one != two, "what is not seeded follows torch"


def test_top_k_beyond_the_vocabulary_is_off_however_large() -> None:
    assert top_k_rows(10**30, 2, 97, CPU) == 97
    limited = top_k_rows(torch.tensor([5, 10**18]), 2, 97, CPU)
    assert isinstance(limited, Tensor)
    assert limited.tolist() == [5, 97]


def greedy(decoder: GuidedDecoder, **options: Any) -> list[list[int]]:
    prompts = random_prompts([5, 9], seed=1)
    out = decoder.generate(prompts, **{"temperature": 0.0, "max_new_tokens": 6, "eos_token_id": [], **options})
    return [row.tolist() for row in out.tokens]


def test_logit_bias_takes_ids_or_rows(decoder: GuidedDecoder) -> None:
    free = greedy(decoder)
    banned = dict.fromkeys(free[0], -INF)
    rows = torch.zeros(2, 97)
    rows[0, list(banned)] = -INF
    first = greedy(decoder, logit_bias=rows)
    assert not set(first[0]) & set(banned)
    assert first[1] == free[1]
    both = greedy(decoder, logit_bias=banned)
    assert both[0] == first[0]
    assert both == greedy(decoder, logit_bias=rows[0]) == greedy(decoder, logit_bias=rows[0].double())
    assert greedy(decoder, logit_bias={5: 1000.0}) == [[5] * 6] * 2


def test_a_bias_for_the_vocabulary_is_not_taken_for_rows() -> None:
    """[V] with V = B is one bias for all rows, in chunks as in one piece."""
    decoder = GuidedDecoder(make_model("llama", seed=1, vocab=13), max_batch_size=5)
    bias = torch.full((13,), -INF).index_fill(0, torch.tensor([5]), 0.0)
    out = decoder.generate([[4]] * 13, logit_bias=bias, max_new_tokens=2)
    assert [row.tolist() for row in out.tokens] == [[5, 5]] * 13


def test_allowed_tokens_are_the_only_ones_drawn(decoder: GuidedDecoder) -> None:
    for allowed in ([4, 9, 11], torch.tensor([4, 9, 11]), (4, 9, 11), range(4, 12)):
        drawn = greedy(decoder, allowed_tokens=allowed, temperature=2.0)
        assert {token for row in drawn for token in row} <= set(map(int, allowed))
    assert greedy(decoder, allowed_tokens=[4, 9], logit_bias={4: -INF}) == [[9] * 6] * 2


def test_a_row_with_nothing_left_to_draw_fails_alone(decoder: GuidedDecoder) -> None:
    bias = torch.zeros(2, 97)
    bias[1, [4, 9]] = -INF
    ids = torch.tensor([[5, 6], [7, 8]])
    out = decoder.generate(ids, allowed_tokens=[4, 9], logit_bias=bias, max_new_tokens=4, eos_token_id=[])
    assert out.finish_reasons == ["length", "error"]
    assert list(out.errors) == [1]
    text = str(out.errors[1])
    assert text.startswith("row 1, new token 0: every token is masked out")
    assert "\n" not in text


def test_the_repetition_penalty_is_a_number_or_one_a_row(decoder: GuidedDecoder) -> None:
    plain, strong = greedy(decoder), greedy(decoder, repetition_penalty=3.0)
    assert plain[0] != strong[0] and plain[1] != strong[1]
    assert greedy(decoder, repetition_penalty=[1.0, 3.0]) == [plain[0], strong[1]]
    assert greedy(decoder, repetition_penalty=torch.tensor([3.0, 1.0])) == [strong[0], plain[1]]


def test_a_masked_token_of_a_weighted_model_is_excluded_whatever_the_sign() -> None:
    base, reward = make_model("llama", seed=1), make_model("llama", seed=2)
    decoder = GuidedDecoder(base, {"r": reward})
    favourite = greedy(decoder, weights=[-2.0], max_new_tokens=1)[0][0]

    def mask(_module: Any, _args: Any, output: Tensor) -> Tensor:
        return output.index_fill(-1, torch.tensor([favourite]), -INF)

    def drawn(**options: Any) -> list[int]:
        return greedy(decoder, max_new_tokens=3, **options)[0]

    for masked in (reward, base):
        hook = masked.lm_head.register_forward_hook(mask)
        for penalty in (1.0, 1.2):  # in the sampler, and on the edited scores
            for weight in (-2.0, 2.0):
                assert favourite not in drawn(weights=[weight], repetition_penalty=penalty)
            if masked is base:
                assert favourite not in drawn(weights=[1.0], base_weight=0.0, repetition_penalty=penalty)
            else:
                plain = greedy(GuidedDecoder(base), max_new_tokens=3, repetition_penalty=penalty)[0]
                assert drawn(weights=[0.0], repetition_penalty=penalty) == plain, "a model of weight 0 masks nothing"
        hook.remove()


def test_temperature_zero_is_greedy_row_by_row_and_the_lowest_id_wins_a_tie(decoder: GuidedDecoder) -> None:
    mixed = greedy(decoder, temperature=[0.0, 1.0], seed=3)
    assert mixed[0] == greedy(decoder)[0]
    assert mixed[1] == greedy(decoder, temperature=1.0, seed=3)[1] != greedy(decoder)[1]
    flat = make_model("llama", seed=1)
    with torch.no_grad():
        flat.lm_head.weight.zero_()
    assert greedy(GuidedDecoder(flat)) == [[0] * 6] * 2
    assert greedy(GuidedDecoder(flat), allowed_tokens=[40, 31, 50]) == [[31] * 6] * 2


def test_a_tensor_of_any_stride_is_read_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias, seeds and filters that are every second element of something."""
    decoder = GuidedDecoder(make_model("llama", seed=1))
    wide = torch.linspace(-4, 4, 2 * decoder.vocab_size)
    seeds, heat = torch.arange(6), torch.linspace(0.5, 2, 6)
    for native in ("0", "1"):
        monkeypatch.setenv("GENARM_NATIVE", native)
        call = {"max_new_tokens": 6, "eos_token_id": []}
        strided = {"logit_bias": wide[::2], "seed": seeds[::2], "temperature": heat[::2]}
        dense = {name: value.contiguous() for name, value in strided.items()}
        found, expected = (decoder.generate([[5, 6, 7]] * 3, **call, **own) for own in (strided, dense))
        assert torch.equal(found.sequences, expected.sequences)
