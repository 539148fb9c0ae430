"""guided_sample and guided_log_probs on a CPU: the oracle, the rules, independence of rows."""

import math

import pytest
import torch
from kernel_cases import (
    DTYPES,
    FILTERS,
    LAYOUTS,
    assert_agrees,
    assert_distributed,
    assert_same_bits,
    check_an_excluded_group_is_passed_over,
    check_group_and_token_noise_are_independent,
    check_groups_race_with_their_filtered_mass,
    check_nothing_beyond_the_vocabulary_exists,
    check_rows_and_positions_draw_their_own_noise,
    check_the_last_id_is_reached,
    check_weights_belong_to_their_models,
    draw_many,
    make_logits,
    make_weights,
)
from rule_cases import RULES

from genarm_kernels import guided_log_probs, guided_sample, reference, row_seeds

pytestmark = pytest.mark.usefixtures("cpu_path")


@pytest.mark.parametrize("options", FILTERS.values(), ids=FILTERS.keys())
@pytest.mark.parametrize("V", [1, 2, 17, 1025, 4096])
def test_agrees_with_the_oracle_under_every_filter(V: int, options: dict[str, float]) -> None:
    assert_agrees(make_logits(5, V, 2), make_weights(5, 2), **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_agrees_with_the_oracle_for_every_layout_and_dtype(layout: str, dtype: torch.dtype) -> None:
    assert_agrees(make_logits(3, 1029, 2, (dtype,), layout), [1.0, 0.5], **FILTERS["all"])


def test_models_may_differ_in_dtype_and_vocabulary() -> None:
    logits = make_logits(3, (1030, 1100, 1029), 3, DTYPES)
    assert_agrees(logits, [1.0, -0.5, 0.25])
    assert_agrees(logits, [1.0, -0.5, 0.25], vocab_size=1000, top_p=0.9)
    assert guided_log_probs(logits, [1.0, 1.0, 1.0]).shape == (3, 1029)


@pytest.mark.parametrize("shared", [True, False])
def test_a_bias_is_added_to_the_scores(shared: bool) -> None:
    logits = make_logits(4, 1025, 2)
    bias = torch.randn(1025 if shared else (4, 1025), generator=torch.Generator().manual_seed(3)) * 3
    bias[..., 5:100] = -torch.inf
    assert_agrees(logits, [1.0, 2.0], bias=bias)
    assert_agrees(logits, [1.0, 2.0], bias=bias, top_k=4, base_top_p=0.9)
    shifted = guided_log_probs([logits[0] + bias], [1.0])
    torch.testing.assert_close(guided_log_probs(logits[:1], [1.0], bias=bias), shifted)


def test_every_setting_may_differ_by_row() -> None:
    B = 6
    options = {
        "temperature": torch.tensor([1.0, 0.0, 0.5, 2.0, 1.0, 0.0]),
        "top_k": torch.tensor([0, 1, 5, 2000, 1, 3]),
        "top_p": torch.tensor([1.0, 0.5, 0.7, 1.0, 0.9, 0.1]),
        "min_p": torch.tensor([0.0, 0.5, 0.0, 0.1, 0.0, 1.0]),
        "base_min_p": torch.tensor([0.0, 0.1, 0.0, 0.01, 1.0, 0.0]),
        "base_top_p": torch.tensor([1.0, 1.0, 0.9, 0.5, 1.0, 0.2]),
        "position": torch.arange(B),
    }
    assert_agrees(make_logits(B, 1100, 2), make_weights(B, 2), seed=row_seeds(1, B), **options)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule) -> None:
    rule("cpu")


def test_the_last_id_is_reached() -> None:
    check_the_last_id_is_reached()


def test_nothing_beyond_the_vocabulary_exists() -> None:
    check_nothing_beyond_the_vocabulary_exists()


def test_rows_and_positions_draw_their_own_noise() -> None:
    check_rows_and_positions_draw_their_own_noise()


def test_group_and_token_noise_are_independent() -> None:
    check_group_and_token_noise_are_independent()


def test_weights_belong_to_their_models() -> None:
    check_weights_belong_to_their_models()


def test_groups_race_with_their_filtered_mass() -> None:
    check_groups_race_with_their_filtered_mass()


def test_an_excluded_group_is_passed_over() -> None:
    check_an_excluded_group_is_passed_over()


@pytest.mark.parametrize(("V", "scale"), [(7, 1.0), (1500, 3.0), (1200, 0.0)])
def test_tokens_have_the_guided_distribution(V: int, scale: float) -> None:
    logits = [scale * z for z in make_logits(1, V, 2)]
    log_probs = reference.guided_log_probs(logits, [1.0, 0.7])[0]
    assert_distributed(draw_many(logits, [1.0, 0.7], 8000, seed=1), log_probs)


@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p", "min_p", "all"])
def test_tokens_have_the_filtered_distribution(name: str) -> None:
    logits = make_logits(1, 1100, 2)
    log_probs = reference.guided_log_probs(logits, [1.0, 0.7], **FILTERS[name])[0]
    assert_distributed(draw_many(logits, [1.0, 0.7], 3000, seed=2, **FILTERS[name]), log_probs)


def test_a_head_draws_as_often_as_its_tail_leaves_it() -> None:
    # One id 8.3 above 4,095 equal others: half of the mass is in a tail of ids that are each drawn once in 8,000 times.
    logits = torch.zeros(1, 4096)
    logits[0, 1500] = math.log(4095)
    tokens = draw_many([logits], [1.0], 6000, seed=3)
    assert abs(int((tokens == 1500).sum()) - 3000) < 6 * math.sqrt(1500)
    tail = torch.bincount(tokens[tokens != 1500] // 256, minlength=16).double()
    mean = tail.sum() / 16
    assert float(((tail - mean) ** 2 / mean).sum()) < 15 + 10 * math.sqrt(30)


def test_positions_draw_the_distribution_as_seeds_do() -> None:
    logits = make_logits(1, 30, 1)
    tokens = draw_many(logits, [1.0], 8000, seed=torch.full((8000,), 4), position=torch.arange(8000))
    assert_distributed(tokens, guided_log_probs(logits, [1.0])[0])


def test_a_batch_seed_is_its_row_seeds() -> None:
    logits = make_logits(6, 300, 2)
    whole = guided_sample(logits, [1.0, 1.0], seed=9, position=4)
    assert torch.equal(guided_sample(logits, [1.0, 1.0], seed=row_seeds(9, 6), position=4).tokens, whole.tokens)
    for b in range(6):
        alone = guided_sample([z[b : b + 1] for z in logits], [1.0, 1.0], seed=row_seeds(9, 6)[b : b + 1], position=4)
        assert alone.tokens[0] == whole.tokens[b]


def test_a_scalar_setting_is_the_same_as_a_column_of_it() -> None:
    logits = make_logits(3, 1500, 2)
    scalars = {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "base_min_p": 0.001, "base_top_p": 0.99}
    columns = {name: torch.full((3,), value) for name, value in scalars.items()}
    points = {name: torch.tensor(value) for name, value in scalars.items()}
    whole = guided_sample(logits, [1.0, 0.5], return_logprobs=True, **scalars)
    assert_same_bits(guided_sample(logits, torch.tensor([1.0, 0.5]), return_logprobs=True, **columns), whole)
    assert_same_bits(guided_sample(logits, [[1.0, 0.5]] * 3, return_logprobs=True, **points), whole)


def test_an_empty_batch_has_empty_results() -> None:
    logits = [torch.zeros(0, 9), torch.zeros(0, 9)]
    sample = guided_sample(logits, [1.0, 1.0], return_logprobs=True, top_k=2)
    assert [tuple(x.shape) for x in sample] == [(0,), (0,), (0, 2), (0,)]
    assert guided_log_probs(logits, [1.0, 1.0]).shape == (0, 9)
    assert reference.guided_log_probs(logits, [1.0, 1.0]).shape == (0, 9)


def test_inputs_are_left_as_they_were() -> None:
    logits = [z.requires_grad_() for z in make_logits(2, 50, 2)]
    logits[0].data[0, 3] = torch.nan
    before = [z.detach().clone() for z in logits]
    bias = torch.ones(50)
    sample = guided_sample(logits, [1.0, 1.0], bias=bias, top_k=3, base_top_p=0.9, return_logprobs=True)
    assert not sample.logprobs.requires_grad
    for z, old in zip(logits, before, strict=True):
        assert torch.equal(z.detach().nan_to_num(9.0), old.nan_to_num(9.0))
    assert bool((bias == 1).all())
