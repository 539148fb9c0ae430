"""guided_sample and guided_log_probs: the oracle for every shape, dtype, layout and setting, and the rules."""

from collections.abc import Callable

import pytest
import torch
from kernel_cases import (
    DTYPES,
    FILTERS,
    LAYOUTS,
    assert_agrees,
    assert_same_bits,
    assert_sample_agrees,
    check_an_excluded_group_is_passed_over,
    check_group_and_token_noise_are_independent,
    check_groups_race_with_their_filtered_mass,
    check_nothing_beyond_the_vocabulary_exists,
    check_rows_and_positions_draw_their_own_noise,
    check_the_last_id_is_reached,
    check_weights_belong_to_their_models,
    make_logits,
    make_weights,
)
from rule_cases import RULES

from genarm_kernels import guided_log_probs, guided_sample, reference, row_seeds
from genarm_kernels.dispatch import INTERPRETED

CUDA = "cuda"
CHECKS = (
    check_the_last_id_is_reached,
    check_nothing_beyond_the_vocabulary_exists,
    check_rows_and_positions_draw_their_own_noise,
    check_group_and_token_noise_are_independent,
    check_weights_belong_to_their_models,
    check_groups_race_with_their_filtered_mass,
    check_an_excluded_group_is_passed_over,
)
# The interpreter takes a tenth of a second for a row.
ROWS = 1 if INTERPRETED else 5
SHAPES = [
    (1, 1, 1), (1, 17, 4), (2, 2, 2), (2, 64, 8), (15, 17, 1), (15, 1, 4), (17, 64, 2), (17, 1, 8), (1023, 2, 4),
    (1023, 64, 1), (1024, 1, 2), (1024, 17, 8), (1025, 2, 2), (1025, 64, 4), (4096, 17, 1), (4096, 1, 4),
]  # fmt: skip
FEW = [(1, 1, 1), (17, 1, 8), (1023, 1, 4), (1024, 1, 2), (1025, 2, 2)]
# Oracles take a second for some 10 million logits: large vocabularies meet large batches and many models in turn.
LARGE = [(32000, 64, 1), (33001, 3, 3), (50257, 17, 2), (128256, 2, 8), (151936, 1, 4), (262144, 1, 1)]
# On a GPU one dtype and mostly two models: each other choice is some more kernels to compile.
HUGE = [
    (1, 1, 1), (2, 17, 2), (15, 64, 8), (17, 2, 1), (1023, 17, 4), (32000, 64, 2), (50257, 17, 4), (50264, 2, 8),
    (128256, 64, 2), (128256, 2, 4), (151936, 17, 2), (151936, 1, 8), (262144, 2, 1), (262144, 1, 8), (1048576, 1, 2),
]  # fmt: skip


@pytest.mark.parametrize(("V", "B", "M"), FEW if INTERPRETED else SHAPES)
def test_every_shape_agrees_with_the_oracle(V: int, B: int, M: int, cpu: str) -> None:
    assert_agrees(make_logits(B, V, M), make_weights(B, M))


@pytest.mark.parametrize(("V", "B", "M"), LARGE)
def test_large_vocabularies_draw_the_oracle_s_tokens(V: int, B: int, M: int, torch_path: None) -> None:
    assert_sample_agrees(make_logits(B, V, M, DTYPES), make_weights(B, M), row_seeds(5, B), position=9)


@pytest.mark.parametrize(("V", "B", "M"), [(128256, 1, 2), (262144, 1, 1)])
def test_large_vocabularies_agree_under_all_filters(V: int, B: int, M: int, torch_path: None) -> None:
    filters = {"temperature": 0.9, "top_k": 5000, "top_p": 0.9, "min_p": 1e-4, "base_top_p": 0.99}
    assert_agrees(make_logits(B, V, M), make_weights(B, M), **filters)


@pytest.mark.device
@pytest.mark.parametrize(("V", "B", "M"), HUGE)
def test_every_shape_draws_the_oracle_s_tokens_on_a_gpu(V: int, B: int, M: int) -> None:
    assert_sample_agrees(make_logits(B, V, M, (torch.bfloat16,), device=CUDA), make_weights(B, M, device=CUDA))


@pytest.mark.device
@pytest.mark.parametrize("V", [1025, 128256])
def test_mixed_dtypes_agree_with_the_oracle_on_a_gpu(V: int) -> None:
    assert_agrees(make_logits(2, V, 3, DTYPES, device=CUDA), make_weights(2, 3, device=CUDA))


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_agrees_with_the_oracle(name: str, cpu: str) -> None:
    assert_agrees(make_logits(ROWS, 1100, 2), make_weights(ROWS, 2), **FILTERS[name])


@pytest.mark.parametrize(("V", "name"), [(1, "all"), (2, "top_p"), (17, "all"), (17, "base_top_p"), (4096, "all")])
def test_filters_agree_with_the_oracle_at_other_sizes(V: int, name: str, torch_path: None) -> None:
    assert_agrees(make_logits(5, V, 2), make_weights(5, 2), **FILTERS[name])


@pytest.mark.device
def test_every_row_has_filters_of_its_own_on_a_gpu() -> None:
    # In one call, since each set of filters that are given at all is some more kernels to compile.
    off = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "base_min_p": 0.0, "base_top_p": 1.0}
    rows = {name: torch.tensor([f.get(name, x) for f in FILTERS.values()], device=CUDA) for name, x in off.items()}
    B = len(FILTERS)
    assert_agrees(make_logits(B, 1100, 2, device=CUDA), make_weights(B, 2, device=CUDA), **rows)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_and_dtype_agrees_with_the_oracle(layout: str, device: str) -> None:
    logits = make_logits(2, 1029, 3, DTYPES, layout, device=device)
    assert_sample_agrees(logits, [1.0, 0.5, -0.5], top_k=9)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_models_of_one_dtype_agree_with_the_oracle(dtype: torch.dtype, cpu: str) -> None:
    assert_sample_agrees(make_logits(2, 1029, 2, (dtype,), "padded rows"), [1.0, 0.5])


def test_models_may_differ_in_dtype_and_vocabulary(cpu: str) -> None:
    logits = make_logits(ROWS, (1030, 1100, 1029), 3, DTYPES)
    assert_agrees(logits, [1.0, -0.5, 0.25])
    assert_sample_agrees(logits, [1.0, -0.5, 0.25], vocab_size=1000, top_p=0.9)
    assert guided_log_probs(logits, [1.0, 1.0, 1.0]).shape == (ROWS, 1029)


@pytest.mark.parametrize("shared", [True, False])
def test_a_bias_is_added_to_the_scores(shared: bool, cpu: str) -> None:
    logits = make_logits(2, 1025, 2)
    bias = torch.randn(1025 if shared else (2, 1025), generator=torch.Generator().manual_seed(3)) * 3
    bias[..., 5:100] = -torch.inf
    filters = {} if shared else {"top_k": 4, "base_top_p": 0.9}
    assert_sample_agrees(logits, [1.0, 2.0], bias=bias, **filters)
    shifted = guided_log_probs([logits[0] + bias], [1.0])
    torch.testing.assert_close(guided_log_probs(logits[:1], [1.0], bias=bias), shifted)


def test_every_setting_may_differ_by_row(cpu: str) -> None:
    B = 3 if INTERPRETED else 6
    options = {
        "temperature": torch.tensor([1.0, 0.0, 0.5, 2.0, 1.0, 0.0]),
        "top_k": torch.tensor([0, 1, 5, 2000, 1, 3]),
        "top_p": torch.tensor([1.0, 0.5, 0.7, 1.0, 0.9, 0.1]),
        "min_p": torch.tensor([0.0, 0.5, 0.0, 0.1, 0.0, 1.0]),
        "base_min_p": torch.tensor([0.0, 0.1, 0.0, 0.01, 1.0, 0.0]),
        "base_top_p": torch.tensor([1.0, 1.0, 0.9, 0.5, 1.0, 0.2]),
        "position": torch.arange(6),
    }
    options = {name: value[:B] for name, value in options.items()}
    assert_agrees(make_logits(B, 1100, 2), make_weights(B, 2), seed=row_seeds(1, B), **options)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Callable[[str], None], device: str) -> None:
    rule(device)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_check(check: Callable[[str], None], fast_device: str) -> None:
    check(fast_device)


def test_a_batch_seed_is_its_row_seeds(torch_path: None) -> None:
    logits = make_logits(6, 300, 2)
    whole = guided_sample(logits, [1.0, 1.0], seed=9, position=4)
    assert torch.equal(guided_sample(logits, [1.0, 1.0], seed=row_seeds(9, 6), position=4).tokens, whole.tokens)
    for b in range(6):
        alone = guided_sample([z[b : b + 1] for z in logits], [1.0, 1.0], seed=row_seeds(9, 6)[b : b + 1], position=4)
        assert alone.tokens[0] == whole.tokens[b]


def test_a_scalar_setting_is_the_same_as_a_column_of_it(torch_path: None) -> None:
    logits = make_logits(3, 1500, 2)
    scalars = {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "base_min_p": 0.001, "base_top_p": 0.99}
    columns = {name: torch.full((3,), value) for name, value in scalars.items()}
    points = {name: torch.tensor(value) for name, value in scalars.items()}
    whole = guided_sample(logits, [1.0, 0.5], return_logprobs=True, **scalars)
    assert_same_bits(guided_sample(logits, torch.tensor([1.0, 0.5]), return_logprobs=True, **columns), whole)
    assert_same_bits(guided_sample(logits, [[1.0, 0.5]] * 3, return_logprobs=True, **points), whole)


def test_an_empty_batch_has_empty_results(torch_path: None) -> None:
    logits = [torch.zeros(0, 9), torch.zeros(0, 9)]
    sample = guided_sample(logits, [1.0, 1.0], return_logprobs=True, return_normalizers=True, top_k=2)
    assert [tuple(x.shape) for x in sample] == [(0,), (0,), (0, 2), (0,), (0,)]
    assert guided_log_probs(logits, [1.0, 1.0]).shape == (0, 9)
    assert reference.guided_log_probs(logits, [1.0, 1.0]).shape == (0, 9)


def test_inputs_are_left_as_they_were(torch_path: None) -> None:
    logits = [z.requires_grad_() for z in make_logits(2, 50, 2)]
    logits[0].data[0, 3] = torch.nan
    before = [z.detach().clone() for z in logits]
    bias = torch.ones(50)
    sample = guided_sample(logits, [1.0, 1.0], bias=bias, top_k=3, base_top_p=0.9, return_logprobs=True)
    assert not sample.logprobs.requires_grad
    for z, old in zip(logits, before, strict=True):
        assert torch.equal(z.detach().nan_to_num(9.0), old.nan_to_num(9.0))
    assert bool((bias == 1).all())


@pytest.mark.device
def test_devices_draw_the_same_tokens(torch_path: None) -> None:
    logits = make_logits(64, 5000, 2)
    cpu = guided_sample(logits, [1.0, 0.5], 0.9, top_k=50, seed=6, position=3)
    gpu = guided_sample([z.to(CUDA) for z in logits], [1.0, 0.5], 0.9, top_k=50, seed=6, position=3)
    assert torch.equal(cpu.tokens, gpu.tokens.cpu())
