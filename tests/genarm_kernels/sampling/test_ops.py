"""The operations under torch.compile, torch.library's checks, fake tensors, export and autograd."""

from collections.abc import Callable, Iterator

import pytest
import torch
from kernel_cases import assert_same_bits, make_logits, make_weights
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode

from genarm_kernels import GuidedSample, guided_log_probs, guided_sample, row_seeds
from genarm_kernels.sampling import cpu, ops
from genarm_kernels.sampling.arguments import GuidedSample as Sample
from genarm_kernels.sampling.arguments import Inputs, prepare

pytestmark = pytest.mark.usefixtures("torch_path")

B, V, M = 3, 50, 2
LOGITS = make_logits(B, V, M)
WEIGHTS = make_weights(B, M)
SCALARS = {"temperature": 0.7, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "base_min_p": 0.001, "base_top_p": 0.99}
ROWS = {
    "temperature": torch.tensor([1.0, 0.0, 0.5]),
    "top_k": torch.tensor([0, 3, 60]),
    "top_p": torch.tensor([1.0, 0.5, 0.9]),
    "min_p": torch.tensor([0.0, 0.1, 0.0]),
    "base_min_p": torch.tensor([0.0, 0.0, 0.01]),
    "base_top_p": torch.tensor([1.0, 0.9, 0.99]),
    "seed": torch.tensor([4, -5, 2**62]),
    "position": torch.tensor([7, 2**40, 0]),
}
FORMS: dict[str, dict[str, object]] = {
    "weights": {},
    "shared weights": {"weights": torch.tensor([1.0, 0.5])},
    "weights in a list": {"weights": [1.0, 0.5]},
    "weights in lists": {"weights": [[1.0, 0.5]] * B},
    "numbers": SCALARS | {"seed": 5, "position": 6},
    "whole numbers": {"temperature": 2, "top_p": 1, "min_p": 0},
    "rows": ROWS,
    "tensors of no dimensions": {name: torch.tensor(value) for name, value in SCALARS.items()}
    | {"seed": torch.tensor(-5, dtype=torch.int32), "position": torch.tensor(6)},
    "greedy": {"temperature": 0.0, "top_k": 3},
    "bias": {"bias": torch.linspace(-2, 2, V)},
    "bias by row, fewer ids": {"bias": torch.ones(B, 40, dtype=torch.bfloat16), "vocab_size": 40},
    "seed beyond 64 bits": {"seed": 2**70 + 3, "position": 2**63 - 1},
    "other dtypes and vocabularies": {"logits": [LOGITS[0].bfloat16(), make_logits(B, V + 9, 1)[0].half()]},
    "columns first": {"logits": [z.t().contiguous().t() for z in LOGITS], "bias": torch.randn(V, B).t()},
    "no rows": {"logits": [z[:0] for z in LOGITS], "weights": WEIGHTS[:0], "top_k": 3},
}


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def draw(**changes: object) -> tuple[GuidedSample, Tensor]:
    """A sample and its distribution, of arguments by name."""
    arguments = {"logits": LOGITS, "weights": WEIGHTS, **changes}
    sample = guided_sample(**arguments, return_logprobs=True, return_normalizers=True)
    return sample, guided_log_probs(**{k: v for k, v in arguments.items() if k not in ("seed", "position")})


def compiled(function: Callable[..., object], backend: str, **options: object) -> tuple[Callable, object]:
    counter = CompileCounterWithBackend(backend)
    return torch.compile(function, backend=counter, fullgraph=True, **options), counter


def assert_same(left: tuple[GuidedSample, Tensor], right: tuple[GuidedSample, Tensor]) -> None:
    assert_same_bits(left[0], right[0])
    assert torch.equal(left[1].view(torch.int32), right[1].view(torch.int32))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_compiled_call_has_no_graph_break_and_the_same_bits(form: dict[str, object]) -> None:
    function, counter = compiled(draw, "aot_eager")
    assert_same(function(**form), draw(**form))
    assert counter.frame_count == 1
    targets = [node.target for node in counter.graphs[0].graph.nodes]
    assert ops._SAMPLE in targets and ops._LOG_PROBS in targets


def test_generated_code_gives_the_same_bits() -> None:
    def steps(bias: Tensor, rows: dict[str, Tensor]) -> list[tuple[GuidedSample, Tensor]]:
        # Work before the operation lets the compiler choose the strides and dtypes of what goes in. All logits are made
        # together: compiling a kernel takes seconds.
        logits = list((torch.stack(LOGITS) * 1.5).to(torch.bfloat16))
        changed = {"position": rows["position"] + 1, "temperature": rows["temperature"].double() * 2}
        return [
            draw(logits=logits, bias=bias * 2 + 1, **rows | changed),
            draw(logits=logits, weights=[1.0, 0.5], seed=rows["seed"][1], **SCALARS),
        ]

    function = torch.compile(steps, fullgraph=True)
    for turn in (1, 2):
        bias = torch.linspace(-turn, turn, V)
        for ours, expected in zip(function(bias, ROWS), steps(bias, ROWS), strict=True):
            assert_same(ours, expected)


def test_numbers_that_change_are_followed_with_one_more_graph() -> None:
    def sample(temperature: float, seed: int, position: int) -> GuidedSample:
        return guided_sample(LOGITS, WEIGHTS, temperature, top_p=0.9, seed=seed, position=position)

    function, counter = compiled(sample, "aot_eager")
    for call in ((1.0, 2, 3), (0.7, 5, 9), (0.3, -(2**63), 2**62), (1e-50, 77, -(2**63)), (2.5, 2**63 - 1, 7)):
        assert_same_tokens(function(*call), sample(*call))
    assert counter.frame_count == 2
    # Greedy choice is known to the operation, so it has a graph of its own.
    assert_same_tokens(function(0.0, 4, 5), sample(0.0, 4, 5))


def assert_same_tokens(left: GuidedSample, right: GuidedSample) -> None:
    assert left.logprobs is None and left.model_logprobs is None
    assert torch.equal(left.tokens, right.tokens) and torch.equal(left.status, right.status)


def test_a_seed_of_any_size_is_the_same_compiled() -> None:
    function, _ = compiled(row_seeds, "aot_eager")
    for seed in (1, 2, -5, 2**63 - 1, 2**63, -(2**63) - 1, 2**64 + 1, torch.tensor(3), torch.tensor(-3).int()):
        assert torch.equal(function(seed, 5), row_seeds(seed, 5))
    assert torch.equal(function(2**64 + 1, 5), row_seeds(1, 5))


def test_other_weights_bias_and_filters_are_followed() -> None:
    def sample(weights: Tensor, bias: Tensor, top_k: int) -> GuidedSample:
        return guided_sample(LOGITS, weights, bias=bias, top_k=top_k)

    function, counter = compiled(sample, "aot_eager")
    for turn in range(6):
        call = (make_weights(B, M, turn), torch.randn(V), turn + 1)
        assert_same_tokens(function(*call), sample(*call))
    assert counter.frame_count == 2
    # A filter that is off is another graph; a list of weights is a constant.
    assert_same_tokens(function(WEIGHTS, torch.zeros(V), 0), sample(WEIGHTS, torch.zeros(V), 0))
    for weights in ([1.0, 0.5], [1.0, -0.5]):
        assert_same_tokens(function(weights, torch.zeros(V), 3), sample(weights, torch.zeros(V), 3))


def test_one_graph_serves_every_batch_and_vocabulary() -> None:
    function, counter = compiled(draw, "aot_eager", dynamic=True)
    graphs = []
    for rows, size in ((3, 50), (2, 60), (9, 1100)):
        call = {"logits": make_logits(rows, size, 2), "weights": make_weights(rows, 2), "temperature": torch.ones(rows)}
        assert_same(function(**call), draw(**call))
        graphs.append(counter.frame_count)
    assert len(set(graphs)) == 1


@pytest.mark.parametrize(
    ("form", "with_grad"),
    [("numbers", True), ("rows", False), ("rows", True), ("greedy", False), ("bias by row, fewer ids", True),
     ("columns first", True), ("no rows", False)],
)  # fmt: skip
def test_the_library_s_own_checks_pass(form: str, with_grad: bool) -> None:
    fields = ops._fields(prepared(**FORMS[form]))
    logits = tuple(z.detach().clone().requires_grad_(with_grad) for z in fields[0])
    for asked in ((False, False), (True, False), (False, True)):
        check(ops._SAMPLE, (logits, *fields[1:], *asked))
        check(ops._LOG_PROBS, (logits, *fields[1:], asked[1]))


def check(op: object, arguments: tuple[object, ...]) -> None:
    results = torch.library.opcheck(op, arguments)
    assert len(results) == 4 and set(results.values()) == {"SUCCESS"}
    outputs = op(*arguments)
    for output in outputs if isinstance(outputs, tuple) else (outputs,):
        assert not output.requires_grad


def prepared(**changes: object) -> Inputs:
    names = "logits weights temperature top_k top_p min_p base_min_p base_top_p bias seed position vocab_size"
    defaults = (LOGITS, WEIGHTS, 1.0, 0, 1.0, 0.0, 0.0, 1.0, None, 0, 0, None)
    return prepare(*(dict(zip(names.split(), defaults, strict=True)) | changes).values())


def test_row_seeds_pass_the_library_s_own_checks() -> None:
    op = torch.ops.genarm_kernels.row_seeds.default
    for rows in (0, 1, 5):
        assert set(torch.library.opcheck(op, (torch.tensor(3), rows)).values()) == {"SUCCESS"}


@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
def test_fake_tensors_have_the_results_shapes_and_dtypes(device: str) -> None:
    with FakeTensorMode():
        logits = [torch.empty(4, size, device=device) for size in (60, 50, 70)]
        options = {"temperature": torch.tensor(0.5), "top_k": torch.ones(4, dtype=torch.int64, device=device)}
        asked = {"return_logprobs": True, "return_normalizers": True}
        sample = guided_sample(logits, [1.0, 0.5, 2.0], seed=torch.tensor(3), **asked, **options)
        plain = guided_sample(logits, torch.ones(4, 3, device=device), seed=2**64)
        log_probs = guided_log_probs(logits, [1.0, 0.5, 2.0], vocab_size=40, **options)
    assert [tuple(x.shape) for x in sample] == [(4,), (4,), (4, 3), (4,), (4,)]
    assert [x.dtype for x in sample] == [torch.int64, torch.float32, torch.float32, torch.int32, torch.float32]
    assert {x.device.type for x in (*sample, log_probs)} == {device}
    assert plain.logprobs is None and plain.model_logprobs is None and plain.tokens.shape == (4,)
    assert log_probs.shape == (4, 40) and log_probs.dtype == torch.float32


def test_an_exported_program_draws_the_same_tokens() -> None:
    class Draw(torch.nn.Module):
        def forward(self, logits: list[Tensor], weights: Tensor, temperature: Tensor, seed: Tensor) -> tuple[Tensor]:
            asked = {"return_logprobs": True, "return_normalizers": True}
            return tuple(guided_sample(logits, weights, temperature, top_k=5, seed=seed, **asked))

    rows = torch.export.Dim("rows", min=1, max=64)
    program = torch.export.export(
        Draw(),
        (LOGITS, torch.ones(M), torch.ones(B), torch.tensor(3)),
        dynamic_shapes=([{0: rows}] * M, None, {0: rows}, None),
        strict=True,
    )
    call = (make_logits(7, V, M), torch.tensor([1.0, 2.0]), torch.rand(7), torch.tensor(8))
    assert_same_bits(Sample(*program.module()(*call)), Sample(*Draw()(*call)))


def test_an_error_about_kinds_and_shapes_names_its_cause_when_compiled() -> None:
    bad = ({"temperature": -1.0}, {"weights": [1.0]}, {"top_k": 2.0}, {"seed": torch.ones(B)}, {"vocab_size": 99})
    for changes in bad:
        with pytest.raises((TypeError, ValueError)) as plain:
            draw(**changes)
        with pytest.raises(type(plain.value)) as broken:
            torch.compile(draw, backend="eager")(**changes)
        assert str(broken.value) == str(plain.value)
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported) as whole:
            torch.compile(draw, backend="eager", fullgraph=True)(**changes)
        assert str(broken.value) in str(whole.value.__cause__)


def test_an_error_about_values_is_the_same_when_compiled() -> None:
    function = torch.compile(draw, backend="aot_eager", fullgraph=True)
    assert_same(function(**ROWS), draw(**ROWS))
    for changes in (
        {"weights": WEIGHTS * torch.nan},
        {"weights": [1.0, float("inf")]},
        {"temperature": torch.tensor([1.0, -1.0, 1.0])},
        {"top_k": torch.tensor([1, -1, 1])},
        {"min_p": torch.tensor([0.0, torch.nan, 0.0])},
    ):
        with pytest.raises(ValueError, match="holds a value") as plain:
            draw(**ROWS | changes)
        with pytest.raises(ValueError) as broken:
            function(**ROWS | changes)
        assert str(broken.value) == str(plain.value)


def test_logits_that_require_grad_are_drawn_from_and_results_carry_none() -> None:
    logits = [z.clone().requires_grad_() for z in LOGITS]
    weights = WEIGHTS.clone().requires_grad_()
    expected = draw()
    for function in (draw, torch.compile(draw, backend="aot_eager", fullgraph=True)):
        sample, log_probs = function(logits=logits, weights=weights)
        assert_same((sample, log_probs), expected)
        assert not any(x.requires_grad for x in (*sample, log_probs))


def test_an_operation_works_on_rows_that_lie_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Inputs] = []
    sound = cpu.guided_sample
    monkeypatch.setattr(cpu, "guided_sample", lambda *call: seen.append(call[0]) or sound(*call))
    table = torch.stack([value.double() for value in ROWS.values()], 1)
    apart = {name: column.to(ROWS[name].dtype) for name, column in zip(ROWS, table.unbind(1), strict=True)}
    apart = {name: torch.stack([value, value], 1)[:, 0] for name, value in apart.items()}
    parameter = torch.nn.Parameter(torch.tensor(0.5), requires_grad=False)
    for form in (FORMS["columns first"], apart, apart | {"temperature": parameter}):
        draw(**form)
    for inputs in seen:
        rows = [value for value in (*inputs.logits, *ops._fields(inputs)[2:]) if isinstance(value, Tensor)]
        assert len(rows) >= 5 and {value.stride(-1) for value in rows} == {1}
