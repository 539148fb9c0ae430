"""The sampling kernels themselves: what they write and read, alignment, values that no host sees, memory, waiting."""

import pytest
import torch
from gpu_cases import waiting_for_nothing
from kernel_cases import assert_same_bits, at, make_logits, make_weights
from torch import Tensor

from genarm_kernels import GuidedSample, guided_log_probs, guided_sample, row_seeds
from genarm_kernels.sampling import cpu, groups
from genarm_kernels.sampling.arguments import prepare

CUDA = "cuda"
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.fixture
def only_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a test of the kernels reached the torch path")

    monkeypatch.setattr(cpu, "guided_log_probs", refuse)
    monkeypatch.setattr(cpu, "guided_sample", refuse)


@pytest.mark.interpreter
@pytest.mark.usefixtures("only_kernels")
def test_a_value_that_no_host_could_check_costs_its_row_alone() -> None:
    logits = make_logits(3, 40, 1)
    good = guided_sample(logits, [1.0])
    assert good.status.tolist() == [0] * 3
    for name, values in (
        ("weights", torch.tensor([[1.0], [torch.nan], [torch.inf]])),
        ("temperature", torch.tensor([1.0, torch.nan, -1.0])),
    ):
        sample = guided_sample(logits, **{"weights": [1.0], name: values})
        assert sample.status.tolist() == [0, 256, 256]
        assert sample.tokens[0] == good.tokens[0]
        assert sample.tokens[[1, 2]].tolist() == logits[0].argmax(1)[[1, 2]].tolist()
        filtered = guided_sample(logits, **{"weights": [1.0], "top_p": 0.9, "min_p": 0.01, name: values})
        assert filtered.status.tolist() == [0, 256, 256]


@pytest.mark.interpreter
def test_the_torch_path_gives_the_kernels_results() -> None:
    logits = make_logits(3, 2100, 2)
    ours = guided_sample(logits, [1.0, 0.5], 0.8, 20, 0.9, seed=4, return_logprobs=True)
    call = prepare(logits, [1.0, 0.5], 0.8, 20, 0.9, 0.0, 0.0, 1.0, None, 4, 0, None)
    twin = cpu.guided_sample(call, True)
    assert torch.equal(ours.tokens, twin.tokens)
    torch.testing.assert_close(ours.logprobs, twin.logprobs)


@pytest.mark.parametrize("options", [{}, {"top_k": 3, "top_p": 0.9, "base_min_p": 0.1, "base_top_p": 0.99}], ids=str)
def test_every_output_is_written_and_nothing_unwritten_is_read(
    options: dict[str, float], monkeypatch: pytest.MonkeyPatch, kernel_device: str
) -> None:
    logits = make_logits(2, 1030 if kernel_device == "cpu" else 50257, 2, device=kernel_device)
    logits[1][1, 4] = torch.nan
    new_empty, empty_like = Tensor.new_empty, torch.empty_like
    results = []
    for sentinel in (-12345, 77):
        for place, name, make in ((Tensor, "new_empty", new_empty), (torch, "empty_like", empty_like)):
            filled = lambda *a, make=make, value=sentinel, **k: make(*a, **k).fill_(value)  # noqa: E731
            monkeypatch.setattr(place, name, filled)
        sample = guided_sample(logits, [1.0, 0.5], return_logprobs=True, return_normalizers=True, **options)
        results.append([*sample] if options else [*sample, guided_log_probs(logits, [1.0, 0.5])])
        assert not any(bool((tensor == sentinel).any()) for tensor in results[-1])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.interpreter
@pytest.mark.parametrize(
    ("dtypes", "filters"),
    [((FP32,), {"bias": True, "top_p": 0.9}), ((BF16, FP16), {"base_top_p": 0.9})],
)
def test_aligned_and_unaligned_rows_give_the_same_bits(
    dtypes: tuple[torch.dtype, ...], filters: dict[str, float]
) -> None:
    V, weights = 1100, make_weights(2, 3)
    logits = make_logits(2, V, 3, dtypes)
    logits[1][0, 5:50], logits[2][1, 3] = -torch.inf, -torch.inf
    if "bias" in filters:
        filters = {**filters, "bias": torch.randn(2, V, generator=torch.Generator().manual_seed(3))}
    samples = []
    for stride, start in ((1104, 0), (1104, 1)) if "bias" in filters else ((1104, 0), (1105, 0)):
        moved = [at(z, stride, start) for z in logits]
        assert groups.starts_rows_at_16_bytes(*moved) == (stride % 8 == 0 and start == 0)
        samples.append(guided_sample(moved, weights, return_logprobs=True, return_normalizers=True, **filters))
    for other in samples[1:]:
        assert_same_bits(samples[0], other)


def test_wide_loads_are_taken_just_where_every_row_starts_at_16_bytes() -> None:
    for dtype, stride, start, wide in (
        (BF16, 50264, 0, True), (BF16, 50257, 0, False), (BF16, 50260, 0, False), (BF16, 50264, 8, True),
        (BF16, 50264, 4, False), (FP32, 50260, 4, True), (FP32, 50258, 0, False), (FP32, 50260, 1, False),
    ):  # fmt: skip
        rows = at(torch.zeros(3, 50257, dtype=dtype), stride, start)
        aligned = at(torch.zeros(3, 50257, dtype=dtype), 50264)
        assert groups.starts_rows_at_16_bytes(rows) == wide, (dtype, stride, start)
        assert groups.starts_rows_at_16_bytes(aligned, rows) == wide
        # A single row has no next one to be misaligned.
        assert groups.starts_rows_at_16_bytes(rows[:1]) == (start * dtype.itemsize % 16 == 0)


@pytest.mark.device
def test_rows_beyond_2_to_the_31_elements_are_found() -> None:
    stride, V = 2**30 + 8, 2000
    if torch.cuda.mem_get_info()[0] < 3 * stride * 2:
        pytest.skip("NOT RUN: needs 7 GB of free GPU memory")
    memory = torch.empty(2 * stride + V, dtype=BF16, device=CUDA)
    far = memory.as_strided((3, V), (stride, 1))
    near = make_logits(3, V, 1, (BF16,), device=CUDA)[0]
    far.copy_(near)
    ours = guided_sample([far], [1.0], top_k=50, return_logprobs=True)
    assert_same_bits(ours, guided_sample([near], [1.0], top_k=50, return_logprobs=True))


@pytest.mark.device
def test_nothing_waits_for_the_device() -> None:
    logits = make_logits(4, 5000, 2, device=CUDA)
    weights = make_weights(4, 2, device=CUDA)
    options = {"temperature": torch.ones(4, device=CUDA), "top_p": 0.9, "top_k": 5, "min_p": 0.01, "base_min_p": 0.01}
    guided_sample(logits, weights, return_logprobs=True, **options)
    with waiting_for_nothing():
        guided_sample(logits, weights, return_logprobs=True, **options)
        guided_sample(logits, weights, temperature=0.5, seed=3, position=7)
        guided_log_probs(logits, weights, **options)


@pytest.mark.device
def test_a_compiled_call_is_one_graph_of_the_same_bits() -> None:
    logits = make_logits(4, 5000, 2, (BF16,), device=CUDA)
    weights, seeds = make_weights(4, 2, device=CUDA), row_seeds(2, 4, CUDA)

    def draw(logits: list[Tensor], weights: Tensor, heat: Tensor) -> GuidedSample:
        return guided_sample([z * 2 for z in logits], weights, heat, seed=seeds, top_p=0.9, return_logprobs=True)

    heat = torch.tensor([0.7, 1.0, 0.0, 1.5], device=CUDA)
    compiled = torch.compile(draw, fullgraph=True)
    assert_same_bits(compiled(logits, weights, heat), draw(logits, weights, heat))
