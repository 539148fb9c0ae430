"""guided_sample on a GPU: the oracle at real sizes, the rules, memory, compilers."""

import group_cases
import pytest
import torch
from filter_cases import columns
from kernel_cases import (
    DTYPES,
    FILTERS,
    LAYOUTS,
    assert_agrees,
    assert_same_bits,
    check_an_excluded_group_is_passed_over,
    check_group_and_token_noise_are_independent,
    check_groups_race_with_their_filtered_mass,
    check_nothing_beyond_the_vocabulary_exists,
    check_rows_and_positions_draw_their_own_noise,
    check_the_last_id_is_reached,
    make_logits,
    make_weights,
)
from rule_cases import RULES
from torch import Tensor

from genarm_kernels import GuidedSample, guided_log_probs, guided_sample, reference, row_seeds

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT RUN: this machine has no CUDA device")
CUDA = "cuda"


# One dtype and mostly two models: each other choice is some more kernels to compile.
SHAPES = [
    (1, 1, 1),
    (2, 17, 2),
    (15, 64, 8),
    (17, 2, 1),
    (1023, 17, 4),
    (32000, 64, 2),
    (50257, 17, 4),
    (50264, 2, 8),
    (128256, 64, 2),
    (128256, 2, 4),
    (151936, 17, 2),
    (151936, 1, 8),
    (262144, 2, 1),
    (262144, 1, 8),
    (1048576, 1, 2),
]


@pytest.mark.parametrize(("V", "B", "M"), SHAPES)
def test_draws_the_oracle_s_tokens_at_every_shape(V: int, B: int, M: int) -> None:
    logits = make_logits(B, V, M, (torch.bfloat16,), device=CUDA)
    weights = make_weights(B, M, device=CUDA)
    ours = guided_sample(logits, weights, seed=7, return_logprobs=True)
    theirs = reference.guided_sample(logits, weights, seed=7, return_logprobs=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("V", [1025, 128256])
def test_agrees_with_the_oracle_on_mixed_dtypes(V: int) -> None:
    assert_agrees(make_logits(2, V, 3, DTYPES, device=CUDA), make_weights(2, 3, device=CUDA))


def test_every_output_is_written_and_nothing_unwritten_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = make_logits(3, 50257, 2, (torch.bfloat16,), device=CUDA)
    logits[1][1, 4] = torch.nan
    options = columns(3, 50257, 8, CUDA) | {"base_top_p": torch.tensor([1.0, 0.9, 1.0], device=CUDA)}
    new_empty, empty_like = Tensor.new_empty, torch.empty_like
    results = []
    for sentinel in (-12345, 77):
        for place, name, make in ((Tensor, "new_empty", new_empty), (torch, "empty_like", empty_like)):
            filled = lambda *a, make=make, value=sentinel, **k: make(*a, **k).fill_(value)  # noqa: E731
            monkeypatch.setattr(place, name, filled)
        sample = guided_sample(logits, [1.0, 0.5], return_logprobs=True, **options)
        results.append([*sample, guided_log_probs(logits, [1.0, 0.5], **options)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_agrees_with_the_oracle_where_every_row_has_filters_of_its_own() -> None:
    # In one call, since each set of filters that are given at all is some more kernels to compile.
    off = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "base_min_p": 0.0, "base_top_p": 1.0}
    rows = {name: torch.tensor([f.get(name, x) for f in FILTERS.values()], device=CUDA) for name, x in off.items()}
    B = len(FILTERS)
    assert_agrees(make_logits(B, 1100, 2, device=CUDA), make_weights(B, 2, device=CUDA), **rows)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_agrees_with_the_oracle_for_every_layout(layout: str) -> None:
    assert_agrees(make_logits(3, 1029, 3, DTYPES, layout, device=CUDA), [1.0, 0.5, -0.5], top_k=9)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule) -> None:
    rule(CUDA)


@pytest.mark.parametrize(
    "check",
    [
        *group_cases.CHECKS,
        check_the_last_id_is_reached,
        check_nothing_beyond_the_vocabulary_exists,
        check_rows_and_positions_draw_their_own_noise,
        check_group_and_token_noise_are_independent,
        check_groups_race_with_their_filtered_mass,
        check_an_excluded_group_is_passed_over,
    ],
)
def test_check(check) -> None:
    check(CUDA)


def test_rows_beyond_2_to_the_31_elements_are_found() -> None:
    stride, V = 2**30 + 8, 2000
    if torch.cuda.mem_get_info()[0] < 3 * stride * 2:
        pytest.skip("NOT RUN: needs 7 GB of free GPU memory")
    memory = torch.empty(2 * stride + V, dtype=torch.bfloat16, device=CUDA)
    far = memory.as_strided((3, V), (stride, 1))
    near = make_logits(3, V, 1, (torch.bfloat16,), device=CUDA)[0]
    far.copy_(near)
    ours = guided_sample([far], [1.0], top_k=50, return_logprobs=True)
    assert_same_bits(ours, guided_sample([near], [1.0], top_k=50, return_logprobs=True))


def test_nothing_waits_for_the_device() -> None:
    logits = make_logits(4, 5000, 2, device=CUDA)
    weights = make_weights(4, 2, device=CUDA)
    options = {"temperature": torch.ones(4, device=CUDA), "top_p": 0.9, "top_k": 5, "min_p": 0.01, "base_min_p": 0.01}
    guided_sample(logits, weights, return_logprobs=True, **options)
    torch.cuda.set_sync_debug_mode("error")
    try:
        guided_sample(logits, weights, return_logprobs=True, **options)
        guided_sample(logits, weights, temperature=0.5, seed=3, position=7)
        guided_log_probs(logits, weights, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_devices_draw_the_same_tokens() -> None:
    logits = make_logits(64, 5000, 2)
    cpu = guided_sample(logits, [1.0, 0.5], 0.9, top_k=50, seed=6, position=3)
    gpu = guided_sample([z.to(CUDA) for z in logits], [1.0, 0.5], 0.9, top_k=50, seed=6, position=3)
    assert torch.equal(cpu.tokens, gpu.tokens.cpu())


def test_a_compiled_call_is_one_graph_of_the_same_bits() -> None:
    logits = make_logits(4, 5000, 2, (torch.bfloat16,), device=CUDA)
    weights, seeds = make_weights(4, 2, device=CUDA), row_seeds(2, 4, CUDA)

    def draw(logits: list[Tensor], weights: Tensor, heat: Tensor) -> GuidedSample:
        return guided_sample([z * 2 for z in logits], weights, heat, seed=seeds, top_p=0.9, return_logprobs=True)

    heat = torch.tensor([0.7, 1.0, 0.0, 1.5], device=CUDA)
    compiled = torch.compile(draw, fullgraph=True)
    assert_same_bits(compiled(logits, weights, heat), draw(logits, weights, heat))
