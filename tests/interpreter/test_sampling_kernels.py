"""The kernels of guided_sample and guided_log_probs in Triton's interpreter: the oracle, the rules, rows, noise."""

import pytest
import torch
from kernel_cases import (
    DTYPES,
    FILTERS,
    LAYOUTS,
    assert_agrees,
    assert_distributed,
    assert_same_bits,
    check_groups_race_with_their_filtered_mass,
    draw_many,
    make_logits,
    make_weights,
)
from rule_cases import RULES
from torch import Tensor

import genarm_kernels
from genarm_kernels import guided_log_probs, guided_sample, reference, row_seeds
from genarm_kernels.sampling import cpu, groups
from genarm_kernels.sampling.arguments import prepare

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(autouse=True)
def only_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a test of the kernels reached the torch path")

    monkeypatch.setattr(cpu, "guided_log_probs", refuse)
    monkeypatch.setattr(cpu, "guided_sample", refuse)


@pytest.mark.parametrize(
    ("V", "B", "M"),
    [(1, 1, 1), (2, 2, 2), (15, 17, 1), (17, 1, 8), (1023, 2, 4), (1024, 1, 2), (1025, 2, 2), (4096, 1, 4)],
)
def test_agrees_with_the_oracle_at_every_shape(V: int, B: int, M: int) -> None:
    assert_agrees(make_logits(B, V, M), make_weights(B, M))


@pytest.mark.parametrize("options", FILTERS.values(), ids=FILTERS.keys())
def test_agrees_with_the_oracle_under_every_filter(options: dict[str, float]) -> None:
    assert_agrees(make_logits(2, 1100, 2), make_weights(2, 2), **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_agrees_with_the_oracle_for_every_layout_and_dtype(layout: str, dtype: torch.dtype) -> None:
    assert_agrees(make_logits(2, 1029, 2, (dtype,), layout), [1.0, 0.5])


def test_models_may_differ_in_dtype_and_vocabulary() -> None:
    logits = make_logits(2, (1030, 1100, 1029), 3, DTYPES)
    assert_agrees(logits, [1.0, -0.5, 0.25])
    assert_agrees(logits, [1.0, -0.5, 0.25], vocab_size=1000, top_p=0.9)


@pytest.mark.parametrize("shared", [True, False])
def test_a_bias_is_added_to_the_scores(shared: bool) -> None:
    bias = torch.randn(1025 if shared else (2, 1025), generator=torch.Generator().manual_seed(3)) * 3
    bias[..., 5:100] = -torch.inf
    assert_agrees(make_logits(2, 1025, 2), [1.0, 2.0], bias=bias, base_top_p=0.9)


def test_every_setting_may_differ_by_row() -> None:
    options = {
        "temperature": torch.tensor([1.0, 0.0, 0.5, 0.0]),
        "top_k": torch.tensor([0, 1, 5, 3]),
        "top_p": torch.tensor([1.0, 0.5, 0.7, 0.1]),
        "min_p": torch.tensor([0.0, 0.5, 0.1, 1.0]),
        "base_min_p": torch.tensor([0.0, 0.1, 0.01, 0.0]),
        "base_top_p": torch.tensor([1.0, 1.0, 0.9, 0.2]),
        "position": torch.arange(4),
    }
    assert_agrees(make_logits(4, 1100, 2), make_weights(4, 2), seed=row_seeds(1, 4), **options)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule) -> None:
    rule("cpu")


def test_a_value_that_no_host_could_check_costs_its_row_alone() -> None:
    logits = make_logits(4, 40, 1)
    good = guided_sample(logits, [1.0])
    assert good.status.tolist() == [0] * 4
    for name, values in (
        ("weights", torch.tensor([[1.0], [torch.nan], [torch.inf], [1.0]])),
        ("temperature", torch.tensor([1.0, torch.nan, -1.0, 1.0])),
    ):
        sample = guided_sample(logits, **{"weights": [1.0], name: values})
        assert sample.status.tolist() == [0, 256, 256, 0]
        assert sample.tokens[[0, 3]].tolist() == good.tokens[[0, 3]].tolist()
        assert sample.tokens[[1, 2]].tolist() == logits[0].argmax(1)[[1, 2]].tolist()
        filtered = guided_sample(logits, **{"weights": [1.0], "top_p": 0.9, "min_p": 0.01, name: values})
        assert filtered.status.tolist() == [0, 256, 256, 0]


def test_groups_race_with_their_filtered_mass() -> None:
    check_groups_race_with_their_filtered_mass(draws=24, filters=["top_k"])


def test_tokens_have_the_guided_distribution() -> None:
    # The kernels draw the twin's tokens (below), whose distribution is tested with more draws than fit here.
    logits = make_logits(1, 12, 2)
    log_probs = reference.guided_log_probs(logits, [1.0, 0.7])[0]
    assert_distributed(draw_many(logits, [1.0, 0.7], 80, seed=1), log_probs)


def test_the_torch_path_gives_the_kernels_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    logits = make_logits(6, 2100, 2)
    ours = guided_sample(logits, [1.0, 0.5], 0.8, 20, 0.9, seed=4, return_logprobs=True)
    call = prepare(logits, [1.0, 0.5], 0.8, 20, 0.9, 0.0, 0.0, 1.0, None, 4, 0, None)
    twin = cpu.guided_sample(call, True)
    assert torch.equal(ours.tokens, twin.tokens)
    torch.testing.assert_close(ours.logprobs, twin.logprobs)


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("V", [5, 1025])
def test_a_row_does_not_depend_on_its_batch(V: int, filtered: bool) -> None:
    B = 5
    logits, weights = make_logits(B, V, 2, layout="padded rows"), make_weights(B, 2)
    options = {"seed": row_seeds(3, B), "position": torch.arange(B)}
    if filtered:
        options |= {
            "temperature": torch.tensor([1.0, 0.0, 0.7, 1.5, 1.0]),
            "top_k": torch.tensor([0, 5, 0, 50, 1]),
            "top_p": torch.tensor([1.0, 0.9, 0.5, 1.0, 1.0]),
            "base_min_p": torch.tensor([0.0, 0.0, 0.01, 0.0, 0.0]),
        }
    whole = guided_sample(logits, weights, return_logprobs=True, **options)
    for b in range(B):
        rows = slice(b, b + 1)
        cut = {name: value[rows] for name, value in options.items()}
        alone = guided_sample([z[rows] for z in logits], weights[rows], return_logprobs=True, **cut)
        assert_same_bits(alone, genarm_kernels.GuidedSample(*(x[rows] for x in whole)))


def test_every_output_is_written_and_nothing_unwritten_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = make_logits(3, 1030, 2)
    logits[1][1, 4] = torch.nan
    new_empty, empty_like = Tensor.new_empty, torch.empty_like
    for options in ({}, {"top_k": 3, "top_p": 0.9, "base_min_p": 0.1, "base_top_p": 0.99}):
        results = []
        for sentinel in (-12345, 77):
            for place, name, make in ((Tensor, "new_empty", new_empty), (torch, "empty_like", empty_like)):
                filled = lambda *a, make=make, value=sentinel, **k: make(*a, **k).fill_(value)  # noqa: E731
                monkeypatch.setattr(place, name, filled)
            sample = guided_sample(logits, [1.0, 0.5], return_logprobs=True, **options)
            results.append([*sample, guided_log_probs(logits, [1.0, 0.5], **options)])
            assert not any(bool((tensor == sentinel).any()) for tensor in results[-1])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def at(z: Tensor, stride: int, start: int) -> Tensor:
    """The same values with rows `stride` apart in memory, from element `start` on."""
    B, V = z.shape
    memory = z.new_full((B * stride + start,), torch.nan)
    return memory.as_strided((B, V), (stride, 1), start).copy_(z)


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float16), (torch.float32,), (torch.bfloat16, torch.float32)])
def test_aligned_and_unaligned_rows_give_the_same_bits(dtypes: tuple[torch.dtype, ...]) -> None:
    V, weights = 2100, make_weights(2, 3)
    logits = make_logits(2, V, 3, dtypes)
    logits[1][0, 5:50], logits[2][1, 3] = -torch.inf, -torch.inf
    bias = torch.randn(2, V, generator=torch.Generator().manual_seed(3))
    for options in ({}, {"bias": bias, "top_p": 0.9}, {"base_top_p": 0.9}):
        samples = []
        for stride, start in ((2104, 0), (2104, 1), (2105, 0)):
            moved = [at(z, stride, start) for z in logits]
            assert groups.starts_rows_at_16_bytes(*moved) == (stride % 8 == 0 and start == 0)
            samples.append(guided_sample(moved, weights, return_logprobs=True, **options))
        for other in samples[1:]:
            assert_same_bits(samples[0], other)


@pytest.mark.parametrize(
    ("dtype", "stride", "start", "wide"),
    [
        (torch.bfloat16, 50264, 0, True),
        (torch.bfloat16, 50257, 0, False),
        (torch.bfloat16, 50260, 0, False),
        (torch.bfloat16, 50264, 8, True),
        (torch.bfloat16, 50264, 4, False),
        (torch.float32, 50260, 4, True),
        (torch.float32, 50258, 0, False),
        (torch.float32, 50260, 1, False),
    ],
)
def test_wide_loads_are_taken_just_where_every_row_starts_at_16_bytes(
    dtype: torch.dtype, stride: int, start: int, wide: bool
) -> None:
    rows = at(torch.zeros(3, 50257, dtype=dtype), stride, start)
    aligned = at(torch.zeros(3, 50257, dtype=dtype), 50264, 0)
    assert groups.starts_rows_at_16_bytes(rows) == wide
    assert groups.starts_rows_at_16_bytes(aligned, rows) == wide
    # A single row has no next one to be misaligned.
    assert groups.starts_rows_at_16_bytes(rows[:1]) == (start * dtype.itemsize % 16 == 0)
