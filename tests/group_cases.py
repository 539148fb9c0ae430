"""Two whole groups of ids and a short one: the rules hold in each, and every group is summed once, for any device."""

from collections.abc import Callable

import pytest
import torch
from interpreted_loads import addresses_read, elements_read
from kernel_cases import assert_same_bits, assert_sample_agrees, at, make_logits, make_weights, rows_of

from genarm_kernels import guided_log_probs, guided_sample, reference, row_seeds
from genarm_kernels.sampling import combine

NAN, INF = torch.nan, torch.inf
V = 2100
PLACES = (3, 1500, 2099)
CHECKS: list[Callable[..., None]] = []


def check(function: Callable[..., None]) -> Callable[..., None]:
    CHECKS.append(function)
    return function


@check
def infinity_is_named_whatever_the_sign_of_its_weight(device: str = "cpu") -> None:
    for sign in (1.0, -1.0):
        base, other, third = make_logits(3, V, 3, device=device)
        for row, place in enumerate(PLACES):
            other[row, place] = INF
        sample = guided_sample([base, other, third], [1.0, sign, 0.5])
        assert sample.status.tolist() == [2, 2, 2]
        assert torch.equal(sample.tokens, base.argmax(1))


@check
def nan_is_named_in_any_group(device: str = "cpu") -> None:
    base, other = make_logits(4, V, 2, device=device)
    for row, place in enumerate(PLACES):
        other[row, place] = NAN
    assert guided_sample([base, other], [1.0, 0.5]).status.tolist() == [2, 2, 2, 0]


@check
def a_base_filter_hides_no_bad_value(device: str = "cpu") -> None:
    # The filter leaves one id in each row; the bad value is among those that it takes away.
    base, other = make_logits(4, V, 2, device=device)
    base[:, 40] = 30.0
    base[0, 3], base[1, 1500] = NAN, INF
    other[2, 3] = NAN
    sample = guided_sample([base, other], [1.0, 0.5], base_min_p=0.9)
    assert sample.status.tolist() == [1, 1, 2, 0]


@check
def a_base_of_weight_0_is_examined_just_under_a_filter_of_its_own(device: str = "cpu") -> None:
    base, other = make_logits(3, V, 2, device=device)
    other[:, 3] = 30.0
    base[:, 3], base[2, 3] = NAN, -INF
    share = torch.tensor([0.0, 0.01, 0.0], device=device)
    sample = guided_sample([base, other], [0.0, 1.0], base_min_p=share)
    assert sample.status.tolist() == [0, 1, 0]
    assert int(sample.tokens[0]) == 3 and int(sample.tokens[2]) != 3


@check
def a_model_of_weight_0_is_examined_just_for_its_log_probs(device: str = "cpu") -> None:
    base, other = make_logits(3, V, 2, device=device)
    for row, place in enumerate(PLACES):
        other[row, place] = NAN
    assert guided_sample([base, other], [1.0, 0.0]).status.tolist() == [0, 0, 0]
    assert guided_sample([base, other], [1.0, 0.0], return_logprobs=True).status.tolist() == [2, 2, 2]


@check
def a_mask_of_any_model_excludes_in_any_group(device: str = "cpu") -> None:
    base, other = make_logits(2, V, 2, device=device)
    base[0, [*PLACES]], other[1, [*PLACES]] = -INF, -INF
    log_probs = guided_log_probs([base, other], [1.0, -0.5])
    assert [row.nonzero()[:, 0].tolist() for row in log_probs == -INF] == [list(PLACES)] * 2


@check
def every_group_is_summed_once(device: str = "cpu") -> None:
    # A third of the mass in each group; a group left out or taken twice is a third too few or too many.
    logits = torch.full((3, V), -INF, device=device)
    logits[:, [*PLACES]] = 1.0
    options = {"seed": row_seeds(4, 3, device)}
    ours = guided_sample([logits], [1.0], return_logprobs=True, **options)
    expected = torch.full((3,), 1 / 3).log().to(device)
    assert torch.allclose(ours.logprobs, expected, atol=1e-5)
    assert torch.allclose(ours.model_logprobs[:, 0], expected, atol=1e-5)
    assert torch.equal(ours.tokens, reference.guided_sample([logits], [1.0], **options).tokens)


@check
def scores_are_those_of_their_ids(device: str = "cpu") -> None:
    logits = make_logits(2, V, 2, device=device)
    bias = torch.linspace(-2, 2, V, device=device)
    assert_sample_agrees(logits, [1.0, 0.5], bias=bias, temperature=0.8, top_p=0.9, base_min_p=1e-4)


@check
def greedy_log_probs_are_those_before_the_base_s_filter(device: str = "cpu") -> None:
    logits = make_logits(2, V, 1, device=device)[0]
    sample = guided_sample([logits], [1.0], torch.zeros(2, device=device), base_top_p=0.5, return_logprobs=True)
    assert torch.allclose(sample.logprobs, logits.log_softmax(1).amax(1), atol=1e-5)


@check
def alignment_changes_no_bit(device: str = "cpu") -> None:
    # 2,104 values are a multiple of 16 bytes in every dtype.
    logits = make_logits(2, 2104, 2, (torch.bfloat16,), device=device)
    moved = [at(z, 2116, 1) for z in logits]
    samples = [guided_sample(z, [1.0, 0.5], return_logprobs=True) for z in (logits, moved)]
    assert_same_bits(*samples)
    assert torch.equal(samples[0].tokens, reference.guided_sample(logits, [1.0, 0.5]).tokens)


@check
def a_row_does_not_depend_on_bad_or_filtered_neighbours(device: str = "cpu") -> None:
    B = 3
    logits = make_logits(B, V, 2, device=device)
    # Masks make a plain group of the third row; what is wrong with its neighbours is looked at id by id.
    logits[0][2, 100:200] = -INF
    logits[0][1, 5], logits[1][1, 1500] = NAN, INF
    options = {
        "seed": row_seeds(3, B, device),
        "top_k": torch.tensor([50, 5, 0], device=device),
        "top_p": torch.tensor([0.5, 0.9, 1.0], device=device),
        "base_min_p": torch.tensor([0.1, 0.0, 0.0], device=device),
    }
    whole = guided_sample(logits, [1.0, -0.5], return_logprobs=True, **options)
    assert [status != 0 for status in whole.status.tolist()] == [False, True, False]
    for b in range(B):
        cut = {name: value[b : b + 1] for name, value in options.items()}
        alone = guided_sample([z[b : b + 1] for z in logits], [1.0, -0.5], return_logprobs=True, **cut)
        assert_same_bits(alone, rows_of(whole, slice(b, b + 1)))
    plain = guided_sample([z[2:3] for z in logits], [1.0, -0.5], seed=options["seed"][2:3], return_logprobs=True)
    assert_same_bits(plain, rows_of(whole, slice(2, 3)))


# In the interpreter alone, which notes what is loaded, and where a split of few groups is a split too.


def a_model_of_weight_0_is_not_read() -> None:
    for logits in (make_logits(1, 2100, 2), [at(z, 2112, 1) for z in make_logits(1, 2100, 2)]):
        with pytest.MonkeyPatch.context() as patch:
            seen = addresses_read(patch)
            guided_sample(logits, [1.0, 0.0], top_k=3, return_normalizers=True)
        assert not elements_read(seen, logits[1])


def a_model_is_read_once_and_its_winning_group_again() -> None:
    logits = make_logits(1, 2100, 2)
    with pytest.MonkeyPatch.context() as patch:
        seen = addresses_read(patch)
        token = int(guided_sample(logits, [1.0, 0.5]).tokens)
    read = elements_read(seen, logits[1])
    counts = torch.tensor([read[place] for place in range(2100)])
    assert len(read) == 2100
    again = torch.arange(2100) // 1024 == token // 1024
    assert counts[~again].unique().tolist() == [1] and counts[again].unique().tolist() == [2]


def a_row_may_be_split_in_any_way() -> None:
    """Whatever groups a program takes: the same bits, every group once."""
    logits, weights = make_logits(1, 3500, 2), make_weights(1, 2)
    logits[1][0, 7] = logits[0][0, 1500] = -torch.inf
    samples = []
    for count in (1, 2, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(combine, "groups_a_program", lambda B, G, processors, count=count: count)
            samples.append(guided_sample(logits, weights, top_p=0.9, return_logprobs=True))
            with_rules = torch.full((1, 2100), -torch.inf)
            with_rules[:, [3, 1500, 2099]] = 1.0
            logprobs = guided_sample([with_rules], [1.0], return_logprobs=True).logprobs
            assert torch.allclose(logprobs, torch.full((1,), 1 / 3).log(), atol=1e-5)
    for other in samples[1:]:
        assert_same_bits(samples[0], other)


INTERPRETED_CHECKS = (
    a_model_of_weight_0_is_not_read,
    a_model_is_read_once_and_its_winning_group_again,
    a_row_may_be_split_in_any_way,
)
