"""The rules on log_normalizers, one function each, for any device: sums are written out over the models' softmaxes."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from kernel_cases import assert_same_bits, make_logits, make_weights
from torch import Tensor

from genarm_kernels import guided_log_probs, guided_sample, row_seeds
from genarm_kernels.reference import sampling as reference
from genarm_kernels.sampling import ops
from genarm_kernels.sampling.arguments import Inputs, prepare

NAN, INF = torch.nan, torch.inf
NOTHING_LEFT = 256
V = 1100  # a whole group and a short one
FILTERS = {"temperature": 0.7, "top_k": 90, "top_p": 0.95, "min_p": 0.01, "base_min_p": 0.001, "base_top_p": 0.99}
CHECKS: list[Callable[..., None]] = []


def check(function: Callable[..., None]) -> Callable[..., None]:
    CHECKS.append(function)
    return function


def close(actual: Tensor | None, expected: Tensor | list[float], atol: float = 5e-5) -> None:
    assert actual is not None and actual.dtype == torch.float32
    expected = torch.as_tensor(expected).double().cpu()
    torch.testing.assert_close(actual.double().cpu(), expected, rtol=1e-5, atol=atol, equal_nan=True)


def normalizers(logits: list[Tensor], weights: object, **options: object) -> Tensor:
    found = guided_sample(logits, weights, return_normalizers=True, **options).log_normalizers
    assert found is not None
    return found


def product_mass(logits: list[Tensor], weights: Tensor, temperature: float, kept: Tensor) -> Tensor:
    """log Σ over kept of (Π_m p_m^w_m)^(1/T), of models that have a weight -> [B] float64."""
    product = torch.zeros_like(kept, dtype=torch.float64)
    for m, z in enumerate(logits):
        weight = weights[:, m, None].double()
        product += torch.where(weight != 0, weight * z.double().log_softmax(1), 0.0)
    return torch.where(kept, product / temperature, -INF).logsumexp(1)


@check
def it_is_the_mass_that_is_left_of_the_product(device: str = "cpu") -> None:
    logits, weights = make_logits(2, V, 3, device=device), make_weights(2, 3, device=device)
    every = torch.ones(2, V, dtype=torch.bool, device=device)
    close(normalizers(logits, weights), product_mass(logits, weights, 1.0, every))
    kept = guided_log_probs(logits, weights, **FILTERS) > -INF
    assert 0 < int(kept.sum()) < 180
    close(normalizers(logits, weights, **FILTERS), product_mass(logits, weights, 0.7, kept))


@check
def a_base_filter_alone_leaves_out_its_mass(device: str = "cpu") -> None:
    logits, weights = make_logits(2, V, 2, device=device), make_weights(2, 2, device=device)
    kept = guided_log_probs(logits, weights, base_min_p=0.05) > -INF
    assert not bool(kept.all())
    close(normalizers(logits, weights, base_min_p=0.05), product_mass(logits, weights, 1.0, kept))


@check
def it_is_0_for_one_model_and_follows_bias_and_temperature(device: str = "cpu") -> None:
    base = make_logits(2, V, 1, device=device)[0]
    close(normalizers([base], [1.0]), [0.0, 0.0])
    close(normalizers([base], [1.0], bias=torch.full((V,), 2.0, device=device)), [2.0, 2.0])
    heat = torch.tensor([0.5, 2.0], device=device)
    log_probs = base.double().log_softmax(1)
    expected = (log_probs / heat[:, None].double()).logsumexp(1)
    close(normalizers([base], [1.0], temperature=heat), expected)
    bias = torch.linspace(-3, 2, V, device=device)
    close(normalizers([base], [1.0], bias=bias), (log_probs + bias.double()).logsumexp(1))


@check
def greedy_rows_have_that_of_all_ids_at_temperature_1(device: str = "cpu") -> None:
    logits, weights = make_logits(3, V, 2, device=device), make_weights(3, 2, device=device)
    heat = torch.tensor([0.0, 1.0, 0.0], device=device)
    filters = {"top_k": 3, "top_p": 0.5, "min_p": 0.2, "base_top_p": 0.4}
    every = torch.ones(3, V, dtype=torch.bool, device=device)
    expected = product_mass(logits, weights, 1.0, every)
    expected[1] = product_mass(logits, weights, 1.0, guided_log_probs(logits, weights, **filters) > -INF)[1]
    close(normalizers(logits, weights, temperature=heat, **filters), expected)
    close(normalizers(logits, weights, temperature=0.0, **filters)[[0, 2]], expected[[0, 2]])


@check
def it_fits_the_log_probs_and_changes_no_draw(device: str = "cpu") -> None:
    logits, weights = make_logits(2, V, 3, device=device), make_weights(2, 3, device=device)
    for options in ({}, FILTERS):
        options = {"seed": row_seeds(4, 2, device), **options}
        alone = guided_sample(logits, weights, return_normalizers=True, **options)
        both = guided_sample(logits, weights, return_logprobs=True, return_normalizers=True, **options)
        plain = guided_sample(logits, weights, **options)
        assert alone.logprobs is None and alone.model_logprobs is None and plain.log_normalizers is None
        assert_same_bits(alone, both._replace(logprobs=None, model_logprobs=None))
        assert_same_bits(plain, alone._replace(log_normalizers=None))
        of_product = (weights.double() * both.model_logprobs.double()).sum(1) / options.get("temperature", 1.0)
        close(both.log_normalizers, of_product - both.logprobs.double())


@check
def a_model_of_weight_0_is_neither_examined_nor_counted(device: str = "cpu") -> None:
    base, other = make_logits(3, V, 2, device=device)
    alone = normalizers([base], [1.0], temperature=0.7)
    for value in (NAN, INF, -INF):
        sample = guided_sample(
            [base, torch.full_like(other, value)], [1.0, 0.0], temperature=0.7, return_normalizers=True
        )
        assert not sample.status.any()
        assert torch.equal(sample.log_normalizers, alone)
    other[1:, 1050] = NAN
    weights = torch.tensor([[1.0, 0.5], [1.0, 0.5], [1.0, 0.0]], device=device)
    sample = guided_sample([base, other], weights, temperature=0.7, return_normalizers=True)
    assert [status & 3 for status in sample.status.tolist()] == [0, 2, 0]
    every = torch.ones(3, V, dtype=torch.bool, device=device)
    expected = product_mass([base, other.nan_to_num(0.0)], weights, 0.7, every)
    expected[1] = NAN
    close(sample.log_normalizers, expected)
    # The base too: what it masks stays masked, and that is all.
    swapped = [other.nan_to_num(0.0), base]
    swapped[0][0, 7] = -INF
    kept = every.index_put((torch.tensor([0]), torch.tensor([7])), torch.tensor(False, device=device))
    close(normalizers(swapped, [0.0, 0.5]), product_mass(swapped, torch.tensor([[0.0, 0.5]] * 3), 1.0, kept))


@check
def an_empty_model_of_weight_0_is_not_counted(device: str = "cpu") -> None:
    base, other = torch.zeros(1, 40, device=device), torch.full((1, 40), -INF, device=device)
    close(normalizers([base, other], [1.0, 0.0]), [0.0])


@check
def nothing_left_is_no_mass_and_a_bad_model_none_that_is_known(device: str = "cpu") -> None:
    logits = make_logits(5, V, 2, device=device)
    logits[1][1] = -INF
    logits[0][2, 3], logits[1][3, 1099] = NAN, INF
    logits[0][4] = NAN
    for options in ({}, {"temperature": 0.0}, {"top_k": 5, "base_top_p": 0.9}):
        sample = guided_sample(logits, [1.0, 0.5], return_normalizers=True, **options)
        assert sample.status.tolist() == [0, NOTHING_LEFT, 1, 2, 1 | NOTHING_LEFT]
        assert math.isfinite(float(sample.log_normalizers[0])) and float(sample.log_normalizers[1]) == -INF
        assert bool(sample.log_normalizers[2:].isnan().all())


@check
def ids_beyond_the_vocabulary_have_no_mass(device: str = "cpu") -> None:
    for size in (1, 1023, 1025):
        logits = [z.contiguous() for z in make_logits(1, 1100, 2, device=device)]
        expected = normalizers([z[:, :size].contiguous() for z in logits], [1.0, -0.5])
        for z in logits:
            z[:, size:] = 50.0
        assert torch.equal(normalizers(logits, [1.0, -0.5], vocab_size=size), expected)


@check
def what_is_added_to_all_logits_of_a_model_costs_nothing(device: str = "cpu") -> None:
    logits, weights = make_logits(2, V, 3, device=device), torch.tensor([1.0, 0.3, -0.7], device=device)
    expected = normalizers(logits, weights)
    for m, shift in itertools.product(range(3), (-100.0, 100.0, 1e4)):
        moved = [z + shift if i == m else z for i, z in enumerate(logits)]
        # The logits themselves are rounded, and so are the scores that are drawn from: to 2⁻¹⁰ at 10⁴.
        torch.testing.assert_close(normalizers(moved, weights), expected, rtol=0, atol=abs(shift) * 1e-7 + 2e-5)


@check
def normalizers_alone_are_the_oracle_s(device: str = "cpu") -> None:
    logits = make_logits(3, V, 2, device=device)
    weights = torch.tensor([[1.0, 0.5], [1.0, -0.7], [1.0, 0.0]], device=device)
    logits[1][2] = NAN
    rows = {"temperature": [0.7, 0.0, 2.0], "top_k": [50, 0, 0], "base_min_p": [0.001, 0.05, 0.0]}
    options = {name: torch.tensor(values, device=device) for name, values in rows.items()}
    inputs = checked(logits, weights, **options)
    ours, theirs = ops.guided_sample(inputs, False, True), reference.sample(inputs, False, True)
    assert not ours.status.any() and torch.equal(ours.tokens, theirs.tokens)
    close(ours.log_normalizers, theirs.log_normalizers)


@check
def scores_may_come_as_a_bias(device: str = "cpu") -> None:
    logits = make_logits(2, V, 2, device=device)
    weights = torch.tensor([[0.5, -0.7], [1.0, 0.0]], device=device)
    logits[1][:, 4] = NAN  # an id of a whole group
    clean = [z.nan_to_num(0.0) for z in logits]
    bias = sum(z * weights[:, m, None] for m, z in enumerate(clean))
    inputs = checked(logits, torch.zeros(2, 2, device=device), bias=bias, temperature=0.7)
    inputs = replace(inputs, normalizer_weights=weights)
    sample = ops.guided_sample(inputs, False, True)
    assert sample.status.tolist() == [2, 0]
    close(sample.log_normalizers, [NAN, float(normalizers(clean, weights, temperature=0.7)[1])])
    close(sample.log_normalizers, reference.sample(inputs, False, True).log_normalizers)


@check
def a_distribution_has_its_draw_s(device: str = "cpu") -> None:
    logits, weights = make_logits(3, V, 2, device=device), make_weights(3, 2, device=device)
    options = FILTERS | {"temperature": torch.tensor([0.7, 0.0, 1.5], device=device)}
    log_probs, masses = guided_log_probs(logits, weights, return_normalizers=True, **options)
    assert torch.equal(masses, normalizers(logits, weights, **options))
    assert torch.equal(log_probs, guided_log_probs(logits, weights, **options))
    # Without them no model is looked at whose scores come as a bias.
    logits[0][1, 3] = NAN
    inputs = checked(logits, torch.zeros(3, 2, device=device), bias=logits[1])
    inputs = replace(inputs, normalizer_weights=weights)
    assert ops.guided_sample(inputs, False).status.tolist() == [0, 0, 0]
    assert ops.guided_log_probs(inputs)[0].isnan().any(1).tolist() == [False, False, False]
    log_probs, masses = ops.guided_log_probs(inputs, True)
    assert log_probs.isnan().any(1).tolist() == [False, True, False]
    assert masses is not None and masses.isnan().tolist() == [False, True, False]


def checked(logits: list[Tensor], weights: Tensor, **changes: object) -> Inputs:
    names = "temperature top_k top_p min_p base_min_p base_top_p bias seed position vocab_size"
    defaults = (1.0, 0, 1.0, 0.0, 0.0, 1.0, None, 0, 0, None)
    return prepare(logits, weights, *(dict(zip(names.split(), defaults, strict=True)) | changes).values())


# What the interpreter has time for: the kernels as they are compiled without log-probs.
INTERPRETED_CHECKS = (
    an_empty_model_of_weight_0_is_not_counted,
    normalizers_alone_are_the_oracle_s,
    scores_may_come_as_a_bias,
)
