"""guided_sample on a GPU at real sizes: the oracle, the distribution, independence of rows, graphs, the noise."""

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
    draw_many,
    make_logits,
    make_weights,
)
from rule_cases import RULES

from genarm_kernels import GuidedSample, guided_log_probs, guided_sample, philox, reference, row_seeds

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT RUN: this machine has no CUDA device")
CUDA = "cuda"


SHAPES = [
    (1, 1, 1),
    (2, 17, 2),
    (15, 2, 8),
    (1023, 17, 4),
    (1025, 2, 8),
    (32000, 17, 2),
    (50257, 4, 3),
    (128256, 4, 4),
    (151936, 2, 2),
    (262144, 1, 8),
    (1048576, 1, 2),
]


@pytest.mark.parametrize(("V", "B", "M"), SHAPES)
def test_agrees_with_the_oracle_at_every_shape(V: int, B: int, M: int) -> None:
    assert_agrees(make_logits(B, V, M, DTYPES, device=CUDA), make_weights(B, M, device=CUDA))


@pytest.mark.parametrize("options", FILTERS.values(), ids=FILTERS.keys())
def test_agrees_with_the_oracle_under_every_filter(options: dict[str, float]) -> None:
    assert_agrees(make_logits(5, 1100, 2, device=CUDA), make_weights(5, 2, device=CUDA), **options)


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "all"])
def test_filters_keep_the_oracle_s_ids_at_full_size(name: str) -> None:
    logits = make_logits(3, 128256, 2, device=CUDA)
    ours = guided_log_probs(logits, [1.0, 0.5], **FILTERS[name])
    expected = reference.guided_log_probs(logits, [1.0, 0.5], **FILTERS[name])
    # An id whose mass above is within float32's rounding of top_p may fall on either side.
    assert int(((ours > -torch.inf) != (expected > -torch.inf)).sum(1).max()) <= 2
    both = (ours > -torch.inf) & (expected > -torch.inf)
    torch.testing.assert_close(ours[both], expected[both], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_agrees_with_the_oracle_for_every_layout(layout: str) -> None:
    assert_agrees(make_logits(3, 1029, 3, DTYPES, layout, device=CUDA), [1.0, 0.5, -0.5], top_k=9)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule) -> None:
    rule(CUDA)


@pytest.mark.parametrize(
    "check",
    [
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


@pytest.mark.parametrize("name", ["none", "temperature", "all"])
def test_tokens_have_the_guided_distribution(name: str) -> None:
    logits = make_logits(1, 5000, 2, device=CUDA)
    log_probs = reference.guided_log_probs(logits, [1.0, 0.7], **FILTERS[name])[0]
    tokens = [draw_many(logits, [1.0, 0.7], 20000, seed=seed, **FILTERS[name]) for seed in range(5)]
    assert_distributed(torch.cat(tokens), log_probs)


def test_a_head_18_above_its_tail_draws_as_often_as_it_should() -> None:
    V, draws, batches = 262144, 4096, 50
    logits = torch.zeros(1, V, device=CUDA)
    logits[0, 12345] = 18.0
    tail = sum(int((draw_many([logits], [1.0], draws, seed=seed) != 12345).sum()) for seed in range(batches))
    mean = draws * batches * (V - 1) / (V - 1 + math.exp(18.0))
    assert abs(tail - mean) < 6 * math.sqrt(mean)


def test_flat_logits_fill_coarse_bins_evenly() -> None:
    V = 262144
    tokens = torch.cat([draw_many([torch.zeros(1, V, device=CUDA)], [1.0], 4096, seed=seed) for seed in range(25)])
    even = torch.full((16,), -math.log(16))
    assert_distributed(tokens // (V // 16), even)
    assert_distributed(tokens % 16, even)


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("V", [4096, 50257, 128256])
def test_a_row_does_not_depend_on_its_batch_stride_or_offset(V: int, filtered: bool) -> None:
    B = 64
    logits = make_logits(B, V, 2, (torch.bfloat16,), device=CUDA)
    weights = make_weights(B, 2, device=CUDA)
    options = {"seed": row_seeds(3, B, CUDA), "position": torch.arange(B, device=CUDA)}
    if filtered:
        rows = torch.arange(B, device=CUDA)
        options |= {
            "temperature": (rows % 4) * 0.5,
            "top_k": (rows % 3) * 20,
            "top_p": torch.where(rows % 2 == 0, 1.0, 0.9),
            "base_min_p": torch.where(rows % 5 == 0, 0.01, 0.0),
        }
    whole = guided_sample(logits, weights, return_logprobs=True, **options)
    for size in (1, 17):
        for start in (0, 1, 13, 46):
            rows = slice(start, start + size)
            cut = {name: value[rows] for name, value in options.items()}
            expected = GuidedSample(*(x[rows] for x in whole))
            for copy in LAYOUTS.values():
                part = guided_sample([copy(z[rows]) for z in logits], weights[rows], return_logprobs=True, **cut)
                assert_same_bits(part, expected)


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


@pytest.mark.parametrize("options", [{}, {"top_k": 50, "top_p": 0.9}], ids=["none", "top_k and top_p"])
def test_a_replayed_graph_follows_its_inputs(options: dict[str, float]) -> None:
    B, V = 4, 32000
    logits = make_logits(B, V, 2, (torch.bfloat16,), device=CUDA)
    weights = make_weights(B, 2, device=CUDA)
    heat = torch.ones(B, device=CUDA)
    seeds, positions = row_seeds(1, B, CUDA), torch.zeros(B, dtype=torch.int64, device=CUDA)

    def step() -> GuidedSample:
        return guided_sample(logits, weights, heat, seed=seeds, position=positions, return_logprobs=True, **options)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    seen = []
    for turn in range(4):
        seeds.copy_(row_seeds(turn, B, CUDA))
        positions.fill_(turn * 10)
        weights[:, 1] = turn - 1.5
        heat.fill_(0.5 + turn / 4)
        logits[0].copy_(make_logits(B, V, 1, (torch.bfloat16,), seed=turn, device=CUDA)[0])
        graph.replay()
        assert_same_bits(step(), out)
        seen.append(out.tokens.tolist())
    assert len({tuple(tokens) for tokens in seen}) == 4


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


def test_a_billion_words_have_the_tail_of_an_exponential() -> None:
    counts = dict.fromkeys((20, 24, 26), 0)
    low_bits = torch.zeros(256, dtype=torch.float64, device=CUDA)
    words_drawn = 0
    ids = torch.arange(2**20, device=CUDA)[None]
    for seeds in row_seeds(5, 1024, CUDA).split(16):
        words = philox.noise_words(seeds, seeds * 0, ids, philox.TOKEN.value)
        words_drawn += words.numel()
        values = philox.exponential(words)
        for power in counts:
            counts[power] += int((values < 2.0**-power).sum())
        low_bits += torch.bincount((words & 255).flatten(), minlength=256).double()
    for power, count in counts.items():
        mean = words_drawn * -math.expm1(-(2.0**-power))
        assert abs(count - mean) < 6 * math.sqrt(mean), power
    mean = words_drawn / 256
    assert float(((low_bits - mean) ** 2 / mean).sum()) < 255 + 10 * math.sqrt(2 * 255)


def test_devices_draw_the_same_tokens() -> None:
    logits = make_logits(64, 5000, 2)
    cpu = guided_sample(logits, [1.0, 0.5], 0.9, top_k=50, seed=6, position=3)
    gpu = guided_sample([z.to(CUDA) for z in logits], [1.0, 0.5], 0.9, top_k=50, seed=6, position=3)
    assert torch.equal(cpu.tokens, gpu.tokens.cpu())
