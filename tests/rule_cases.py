"""The rules of the contract on masks, weights, bad values and greedy choice: one function each, for any device."""

import math
from collections.abc import Callable

import torch
from kernel_cases import assert_agrees, assert_sample_agrees, make_logits

from genarm_kernels import guided_log_probs, guided_sample, row_seeds

NAN, INF = torch.nan, torch.inf
NOTHING_LEFT = 256
RULES: list[Callable[[str], None]] = []


def rule(function: Callable[[str], None]) -> Callable[[str], None]:
    RULES.append(function)
    return function


def close(actual: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(actual.cpu(), torch.tensor(expected), equal_nan=True, rtol=1e-5, atol=1e-5)


@rule
def greedy_takes_the_lowest_of_equal_ids(device: str) -> None:
    logits = torch.zeros(1, 3000, device=device)
    logits[0, [1500, 1501, 2500]] = 3.0
    for options in ({}, {"top_k": 1}, {"base_min_p": 0.5}):
        assert guided_sample([logits], [1.0], temperature=0.0, **options).tokens.tolist() == [1500]


@rule
def greedy_log_probs_are_those_of_the_unfiltered_combination(device: str) -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0, -1.0]], device=device)
    expected = float(logits.log_softmax(1)[0, 1])
    for options in ({}, {"top_k": 1}, {"base_top_p": 0.1}, {"base_min_p": 0.9, "min_p": 0.9}):
        sample = guided_sample([logits], [1.0], temperature=0.0, return_logprobs=True, **options)
        close(sample.logprobs, [expected])
        one_hot = guided_log_probs([logits], [1.0], temperature=0.0, **options)
        assert one_hot.tolist() == [[-INF, 0.0, -INF, -INF]]


@rule
def a_base_filter_decides_what_greedy_may_take(device: str) -> None:
    base, reward = torch.tensor([[3.0, 1.0, 2.9]], device=device), torch.tensor([[0.0, 9.0, 1.0]], device=device)
    assert guided_sample([base, reward], [1.0, 1.0], temperature=0.0).tokens.tolist() == [1]
    assert guided_sample([base, reward], [1.0, 1.0], temperature=0.0, base_min_p=0.5).tokens.tolist() == [2]


@rule
def any_temperature_however_small_keeps_the_largest_score(device: str) -> None:
    logits = torch.tensor([[100.0, 99.0, -80.0]], device=device)
    for temperature in (1e-3, 1e-30, 1e-38, 1e-45):
        sample = guided_sample([logits], [1.0], temperature=temperature, return_logprobs=True)
        assert sample.tokens.tolist() == [0] and sample.status.tolist() == [0]
        close(sample.logprobs, [0.0])


@rule
def a_large_temperature_is_flat(device: str) -> None:
    logits = torch.tensor([[100.0, 99.0, -80.0]], device=device)
    close(guided_log_probs([logits], [1.0], temperature=3e38)[0], [-math.log(3)] * 3)


@rule
def a_model_of_weight_0_is_skipped_whatever_it_holds(device: str) -> None:
    base = make_logits(2, 40, 1, device=device)[0]
    for value in (NAN, INF, -INF):
        other = torch.full((2, 40), value, device=device)
        sample = guided_sample([base, other], [1.0, 0.0], seed=3)
        assert torch.equal(sample.tokens, guided_sample([base], [1.0], seed=3).tokens)
        assert sample.status.tolist() == [0, 0]


@rule
def a_model_of_weight_0_in_one_row_counts_in_the_other(device: str) -> None:
    base = make_logits(2, 40, 1, device=device)[0]
    other = torch.full((2, 40), NAN, device=device)
    weights = torch.tensor([[1.0, 0.0], [1.0, 0.5]], device=device)
    assert guided_sample([base, other], weights).status.tolist() == [0, 2 | NOTHING_LEFT]


@rule
def a_model_of_weight_0_is_examined_when_its_log_probs_are_asked_for(device: str) -> None:
    base, other = make_logits(2, 40, 2, device=device)
    other[1, 7] = NAN
    assert guided_sample([base, other], [1.0, 0.0]).status.tolist() == [0, 0]
    sample = guided_sample([base, other], [1.0, 0.0], return_logprobs=True)
    assert sample.status.tolist() == [0, 2]
    assert sample.tokens[1] == base[1].argmax()
    assert sample.logprobs.isnan().tolist() == [False, True]
    assert sample.model_logprobs.isnan().tolist() == [[False, False], [True, True]]


@rule
def a_model_of_weight_0_has_log_probs_too(device: str) -> None:
    base, other = make_logits(2, 1030, 2, device=device)
    assert_agrees([base, other], [1.0, 0.0])
    sample = guided_sample([base, other], [1.0, 0.0], return_logprobs=True, temperature=0.5)
    expected = other.log_softmax(1).gather(1, sample.tokens[:, None])[:, 0]
    torch.testing.assert_close(sample.model_logprobs[:, 1], expected)


@rule
def minus_infinity_excludes_whatever_the_sign_of_the_weight(device: str) -> None:
    base, other = torch.zeros(3, 4, device=device), torch.zeros(3, 4, device=device)
    base[:, 0] = -INF
    other[:, 1] = -INF
    for weight in (1.0, -1.0):
        sample = guided_sample([base, other], [1.0, weight], seed=1, return_logprobs=True)
        assert set(sample.tokens.tolist()) <= {2, 3} and not sample.status.any()
        close(guided_log_probs([base, other], [1.0, weight])[0], [-INF, -INF, -math.log(2), -math.log(2)])


@rule
def minus_infinity_of_the_base_excludes_at_weight_0(device: str) -> None:
    base, other = torch.tensor([[-INF, 0.0, 0.0]], device=device), torch.tensor([[9.0, 1.0, 2.0]], device=device)
    assert guided_sample([base, other], [0.0, 1.0], temperature=0.0).tokens.tolist() == [2]
    assert guided_log_probs([base, other], [0.0, 1.0])[0, 0] == -INF


@rule
def a_base_of_weight_0_is_examined_only_under_its_own_filter(device: str) -> None:
    base = torch.tensor([[0.0, NAN, 1.0]], device=device)
    other = torch.tensor([[0.0, 5.0, 1.0]], device=device)
    call = {"temperature": 0.0}
    sample = guided_sample([base, other], [0.0, 1.0], **call)
    assert (sample.tokens.tolist(), sample.status.tolist()) == ([1], [0])
    for options in ({"base_min_p": 0.1}, {"base_top_p": 0.9}, {"return_logprobs": True}):
        sample = guided_sample([base, other], [0.0, 1.0], **call, **options)
        assert (sample.tokens.tolist(), sample.status.tolist()) == ([2], [1])
    off = torch.tensor([0.0, 0.1], device=device)
    both = [z.expand(2, -1) for z in (base, other)]
    assert guided_sample(both, [0.0, 1.0], **call, base_min_p=off).status.tolist() == [0, 1]
    off = torch.tensor([1.0, 0.9], device=device)
    assert guided_sample(both, [0.0, 1.0], **call, base_top_p=off).status.tolist() == [0, 1]


@rule
def nan_and_infinity_are_named_by_model_and_spare_the_other_rows(device: str) -> None:
    logits, seeds = make_logits(6, 1030, 3, device=device), row_seeds(2, 6, device)
    good = [z[[0, 5]] for z in logits]
    clean = guided_sample(good, [1.0, 0.5, -0.5], seed=seeds[[0, 5]], return_logprobs=True)
    logits[0][1, 1029] = NAN
    logits[1][2, 0] = INF
    logits[2][3, 1024] = NAN
    logits[1][3, 5] = NAN
    logits[2][4] = -INF
    sample = guided_sample(logits, [1.0, 0.5, -0.5], seed=seeds, return_logprobs=True)
    assert sample.status.tolist() == [0, 1, 2, 6, NOTHING_LEFT, 0]
    finite = logits[0].nan_to_num(nan=-INF)
    assert sample.tokens[1:5].tolist() == finite.argmax(1)[1:5].tolist()
    assert torch.equal(sample.tokens[[0, 5]], clean.tokens) and torch.equal(sample.logprobs[[0, 5]], clean.logprobs)
    assert sample.logprobs.isnan().tolist() == [False, True, True, True, True, False]
    assert guided_log_probs(logits, [1.0, 0.5, -0.5])[:, 0].isnan().tolist() == [False, True, True, True, True, False]
    assert_sample_agrees([z[2:5] for z in logits], [1.0, 0.5, -0.5], top_k=5, base_top_p=0.9)


@rule
def bad_values_beyond_the_vocabulary_do_not_count(device: str) -> None:
    logits = make_logits(2, 40, 2, device=device)
    for z in logits:
        z[:, 30:] = NAN
    sample = guided_sample(logits, [1.0, 1.0], vocab_size=30, return_logprobs=True)
    assert sample.status.tolist() == [0, 0] and bool(sample.model_logprobs.isfinite().all())


@rule
def a_row_with_nothing_left_takes_the_base_s_best_or_0(device: str) -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0], [-INF, -INF, -INF], [NAN, NAN, NAN], [INF, -1.0, NAN]], device=device)
    bias = torch.full((3,), -INF, device=device)
    sample = guided_sample([logits], [1.0], bias=bias, return_logprobs=True)
    assert sample.tokens.tolist() == [1, 0, 0, 1]
    assert sample.status.tolist() == [NOTHING_LEFT, NOTHING_LEFT, 1 | NOTHING_LEFT, 1 | NOTHING_LEFT]
    assert bool(sample.logprobs.isnan().all())
    assert_sample_agrees([logits], [1.0])


@rule
def a_base_s_best_is_found_in_any_group(device: str) -> None:
    logits = torch.zeros(2, 2500, device=device)
    logits[0, 2400] = 2.0
    logits[1, 1100] = logits[1, 2400] = 2.0
    bias = torch.full((2500,), -INF, device=device)
    assert guided_sample([logits], [1.0], bias=bias).tokens.tolist() == [2400, 1100]


@rule
def disjoint_masks_leave_nothing(device: str) -> None:
    base, other = torch.zeros(1, 4, device=device), torch.zeros(1, 4, device=device)
    base[0, :2] = -INF
    other[0, 2:] = -INF
    for options in ({}, {"top_k": 1, "top_p": 0.5, "base_min_p": 0.1}, {"temperature": 0.0}):
        assert guided_sample([base, other], [1.0, 1.0], **options).status.tolist() == [NOTHING_LEFT]


@rule
def a_base_filter_and_a_mask_may_leave_nothing(device: str) -> None:
    base, other = torch.tensor([[5.0, 0.0]], device=device), torch.tensor([[-INF, 0.0]], device=device)
    sample = guided_sample([base, other], [1.0, 1.0], base_min_p=0.5)
    assert (sample.tokens.tolist(), sample.status.tolist()) == ([0], [NOTHING_LEFT])


@rule
def scores_that_overflow_count_as_excluded(device: str) -> None:
    base = torch.tensor([[3e38, 1.0, -3e38, 0.5]], device=device)
    sample = guided_sample([base], [2.0], temperature=0.0)
    assert (sample.tokens.tolist(), sample.status.tolist()) == ([1], [0])
    close(guided_log_probs([base], [2.0])[0].exp(), [0.0, 0.7310586, 0.0, 0.2689414])
    bias = torch.tensor([INF, NAN, 0.0, 0.0], device=device)
    zeros = torch.zeros(1, 4, device=device)
    close(guided_log_probs([zeros], [1.0], bias=bias)[0].exp(), [0.0, 0.0, 0.5, 0.5])


@rule
def all_weights_0_is_the_bias_alone(device: str) -> None:
    logits = make_logits(1, 4, 2, device=device)
    bias = torch.tensor([0.0, -INF, 1.0, 0.0], device=device)
    expected = bias.log_softmax(0)
    torch.testing.assert_close(guided_log_probs(logits, [0.0, 0.0], bias=bias)[0], expected)


@rule
def a_base_alone_is_its_own_distribution(device: str) -> None:
    base = make_logits(3, 1500, 1, device=device)[0]
    torch.testing.assert_close(guided_log_probs([base], [1.0]), base.log_softmax(1))
    sample = guided_sample([base], [1.0], return_logprobs=True)
    assert torch.equal(sample.logprobs, sample.model_logprobs[:, 0])
