"""token_logprobs: results and gradients, autograd's ways, errors; on a GPU real sizes, no waiting and graphs."""

import copy
import itertools
from collections.abc import Callable

import logprobs_cases as cases
import logprobs_kernel_cases as kernel_cases
import pytest
import torch
import torch.nn.functional as F
from gpu_cases import captured, waiting_for_nothing
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bench.logprobs import BUILDERS, missing, run
from genarm_kernels import reference, token_logprobs
from genarm_kernels.logprobs import blocks as logprob_blocks

CUDA = "cuda"


@pytest.mark.parametrize("check", cases.CHECKS, ids=lambda check: check.__name__)
def test_check(check: Callable[[str], None], device: str) -> None:
    check(device)


@pytest.mark.usefixtures("stale_memory")
@pytest.mark.parametrize("check", kernel_cases.KERNEL_CHECKS, ids=lambda check: check.__name__)
def test_kernel_check(check: Callable[[str], None], kernel_device: str) -> None:
    check(kernel_device)


@pytest.mark.parametrize(("V", "dtype"), [(32000, torch.float32), (50257, torch.bfloat16), (128256, torch.bfloat16)])
def test_large_vocabularies_are_as_near_the_truth_as_torch(V: int, dtype: torch.dtype) -> None:
    cases.no_further_from_the_truth_than_torch(7, V, 16, dtype, "cpu", bias=V % 2 == 1)


def test_the_oracle_is_what_torch_says_of_all_logits() -> None:
    tensors = cases.case(9, 40, 8, torch.float64)
    torch.testing.assert_close(reference.token_logprobs(*tensors), cases.plain(*tensors), rtol=1e-12, atol=1e-12)


def test_blocks_are_even_and_no_longer_than_allowed() -> None:
    lengths, limits = (1, 5, 127, 128, 129, 900, 4096, 5000), (0, 1, 15, 16, 100, 128, 1000, 4096)
    for length, most in itertools.product(lengths, limits):
        step = logprob_blocks.evenly(length, most)
        assert 1 <= step <= max(1, most)
        blocks = -(-length // step)
        multiple = 128 if most >= 128 else 16 if most >= 16 else 1
        assert blocks <= -(-length // max(1, most // multiple * multiple)), (length, most)
        assert step == length or step % multiple == 0, (length, most)


@pytest.mark.parametrize(
    ("wanted", "products"), [((), 1), ((0,), 2), ((1,), 3), ((0, 1), 4), ((2,), 2), ((0, 1, 2), 4)], ids=str
)
def test_a_frozen_head_takes_two_products_and_scoring_one(
    monkeypatch: pytest.MonkeyPatch, wanted: tuple[int, ...], products: int
) -> None:
    hidden, lm_head, token_ids, bias = cases.case(20, 50, 8, torch.float32)
    leaves = [tensor.requires_grad_(index in wanted) for index, tensor in enumerate((hidden, lm_head, bias))]
    calls: list[str] = []
    for name in ("mm", "addmm"):
        kept = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, kept=kept, name=name, **k: (calls.append(name), kept(*a, **k))[1])
    logprobs = token_logprobs(leaves[0], leaves[1], token_ids, leaves[2])
    assert logprobs.requires_grad == bool(wanted)
    if wanted:
        logprobs.sum().backward()
    assert len(calls) == products
    assert [leaf.grad is not None for leaf in leaves] == [index in wanted for index in range(3)]
    calls.clear()
    with torch.no_grad():
        token_logprobs(leaves[0], leaves[1], token_ids, leaves[2])
    assert len(calls) == 1


def test_gradients_come_back_in_their_own_dtypes_under_autocast() -> None:
    hidden, lm_head, token_ids, bias = cases.case(9, 60, 8, torch.float32)
    grads = torch.linspace(-1.0, 2.0, 9)
    half = [tensor.bfloat16() for tensor in (hidden, lm_head, bias)]
    expected = cases.results(token_logprobs, *half, grads=grads, token_ids=token_ids)
    with torch.autocast("cpu", torch.bfloat16):
        found = cases.results(token_logprobs, hidden, lm_head.bfloat16(), bias, grads=grads, token_ids=token_ids)
        exact = token_logprobs(hidden.double(), lm_head.double(), token_ids)
    assert [value.dtype for value in found[1:]] == [torch.float32, torch.bfloat16, torch.float32]
    assert exact.dtype == torch.float64
    for value, right in zip(found, expected, strict=True):
        assert torch.equal(value, right.to(value.dtype))


def test_large_grads_of_a_scaled_loss_do_not_overflow_float16() -> None:
    hidden, lm_head, token_ids, _ = cases.case(9, 60, 8, torch.float16)
    lm_head *= 2**-10
    grads = torch.full((9,), 2.0**17)
    _, d_hidden, _ = cases.results(token_logprobs, hidden, lm_head, grads=grads, token_ids=token_ids)
    exact = cases.results(reference.token_logprobs, hidden, lm_head, grads=grads, token_ids=token_ids)[1]
    torch.testing.assert_close(d_hidden, exact, rtol=1e-2, atol=1.0)


def test_it_runs_within_a_checkpoint() -> None:
    hidden, lm_head, token_ids, _ = cases.case(9, 60, 8, torch.float32)
    grads = torch.linspace(-1.0, 2.0, 9)

    def again(hidden: Tensor, lm_head: Tensor, token_ids: Tensor) -> Tensor:
        logprobs: Tensor = checkpoint(token_logprobs, hidden, lm_head, token_ids, use_reentrant=False)
        return logprobs

    expected, found = (
        cases.results(op, hidden, lm_head, grads=grads, token_ids=token_ids) for op in (token_logprobs, again)
    )
    assert all(torch.equal(value, right) for value, right in zip(found, expected, strict=True))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_compiler_takes_it_whole() -> None:
    hidden, lm_head, token_ids, bias = cases.case(9, 60, 8, torch.float32)
    grads = torch.linspace(-1.0, 2.0, 9)
    compiled = torch.compile(token_logprobs, backend="aot_eager", fullgraph=True)
    expected, found = (
        cases.results(op, hidden, lm_head, bias, grads=grads, token_ids=token_ids) for op in (token_logprobs, compiled)
    )
    assert all(torch.equal(value, right) for value, right in zip(found, expected, strict=True))


def test_the_operations_keep_the_rules_of_torch_library() -> None:
    hidden, lm_head, token_ids, bias = cases.case(9, 60, 8, torch.bfloat16)
    for slopes in (False, True):
        torch.library.opcheck(logprob_blocks.FORWARD, (hidden, lm_head, bias, token_ids, -100, slopes))
    totals = torch.full((9,), 4.0)
    for wanted in ((True, False), (False, True)):
        torch.library.opcheck(
            logprob_blocks.BACKWARD, (hidden, lm_head, None, token_ids, -100, totals, totals, *wanted)
        )


def test_a_second_derivative_is_refused() -> None:
    hidden, lm_head, token_ids, _ = cases.case(4, 20, 8, torch.float64)
    logprobs = token_logprobs(hidden.requires_grad_(), lm_head, token_ids)
    (gradient,) = torch.autograd.grad(logprobs.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_tied_head_gets_both_gradients() -> None:
    embedding = torch.nn.Embedding(30, 8)
    twin = copy.deepcopy(embedding)
    ids, token_ids = torch.arange(10), torch.arange(1, 11)
    token_logprobs(embedding(ids), embedding.weight, token_ids).sum().backward()
    (-F.cross_entropy(F.linear(twin(ids), twin.weight), token_ids, reduction="sum")).backward()
    torch.testing.assert_close(embedding.weight.grad, twin.weight.grad)


HIDDEN, HEAD, IDS, BIAS = cases.case(6, 30, 8, torch.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((HIDDEN[None], HEAD, IDS), ValueError, r"hidden has shape \[1, 6, 8\] .* flatten leading dimensions"),
        ((HIDDEN, HEAD[:, :7], IDS), ValueError, r"lm_head \[30, 7\]: expected \[N, H\] and \[V, H\] of one H"),
        ((HIDDEN.int(), HEAD, IDS), TypeError, "hidden is torch.int32: expected bfloat16"),
        ((HIDDEN, HEAD.bfloat16(), IDS), TypeError, "hidden is torch.float32 and lm_head torch.bfloat16: convert one"),
        ((HIDDEN, HEAD, IDS.float()), TypeError, "token_ids is torch.float32: expected int64"),
        ((HIDDEN, HEAD, IDS[:5]), ValueError, r"token_ids has shape \[5\]: expected \[6\], a token a row"),
        ((HIDDEN, HEAD, IDS, BIAS[:29]), ValueError, r"bias is \[29\] torch.float32: expected \[30\]"),
        ((HIDDEN, HEAD, IDS, BIAS.double()), ValueError, r"bias is \[30\] torch.float64"),
        ((HIDDEN, HEAD.to("meta"), IDS), ValueError, "lm_head is on meta and hidden on cpu: move one of them"),
        ((HIDDEN, HEAD, torch.tensor([0, 1, 30, -100, 2, 3])), ValueError, r"token_ids\[2\] is 30: expected 0 to 29"),
        ((HIDDEN, HEAD, torch.tensor([0, -1, 30, -100, 2, 3])), ValueError, r"token_ids\[1\] is -1: .* or -100 to ign"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple[Tensor, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        token_logprobs(*arguments)


@pytest.mark.device
@pytest.mark.parametrize(
    ("V", "dtype"), [*zip([32000, 50257, 128256, 151936], [*cases.DTYPES[:3], torch.bfloat16], strict=True)]
)
def test_real_vocabularies_are_as_near_the_truth_as_torch(V: int, dtype: torch.dtype) -> None:
    for N in (1, 33, 300):
        cases.no_further_from_the_truth_than_torch(N, V, 128, dtype, CUDA, bias=V % 2 == 1)


@pytest.mark.device
def test_rows_may_lie_beyond_2_to_the_31_logits() -> None:
    if torch.cuda.mem_get_info()[0] < 30e9:
        pytest.skip("NOT RUN: 30 GB of free memory are needed")
    hidden = torch.randn(2**19 + 20000, 4096, device=CUDA, dtype=torch.bfloat16)
    lm_head = torch.randn(4000, 4096, device=CUDA, dtype=torch.bfloat16) / 64
    token_ids = torch.randint(4000, (len(hidden),), device=CUDA)
    # A block has as many logits as there are hidden states: one block here, its last rows beyond 2³¹.
    found = token_logprobs(hidden, lm_head, token_ids)
    for rows in (slice(0, 50), slice(len(hidden) - 50, len(hidden))):
        exact = reference.token_logprobs(hidden[rows], lm_head, token_ids[rows])
        torch.testing.assert_close(found[rows].double(), exact, rtol=2e-2, atol=5e-2)


@pytest.mark.device
def test_nothing_waits_for_the_device() -> None:
    tensors = cases.case(40, 3000, 64, torch.bfloat16, CUDA)
    grads = torch.ones(40, device=CUDA)

    def call() -> list[Tensor]:
        hidden, lm_head, token_ids, bias = tensors
        return cases.results(token_logprobs, hidden, lm_head, bias, grads=grads, token_ids=token_ids)

    call()
    with waiting_for_nothing():
        call()


@pytest.mark.device
def test_a_replayed_graph_follows_its_inputs() -> None:
    hidden, lm_head, token_ids, _ = cases.case(40, 3000, 64, torch.bfloat16, CUDA)
    graph, logprobs = captured(lambda: token_logprobs(hidden, lm_head, token_ids))
    for seed in (4, 5):
        other = cases.case(40, 3000, 64, torch.bfloat16, CUDA, seed)
        hidden.copy_(other.hidden)
        token_ids.copy_(other.token_ids)
        graph.replay()
        torch.testing.assert_close(logprobs, token_logprobs(hidden, lm_head, token_ids), rtol=1e-2, atol=1e-2)


@pytest.mark.device
@pytest.mark.parametrize(("way", "mode"), [("liger", "frozen"), ("liger-sum", "trained")])
def test_liger_s_results_are_the_same(way: str, mode: str) -> None:
    if reason := missing(way, torch.device(CUDA)):
        pytest.skip(f"NOT RUN: {reason}")
    hidden, lm_head, token_ids, _ = cases.case(200, 3000, 128, torch.float32, CUDA)
    ones = torch.ones(200, device=CUDA)
    ours, theirs = (run(BUILDERS[name](), hidden, lm_head, token_ids, mode, ones) for name in ("ours", way))
    for value, right in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(value, right, rtol=2e-2, atol=2e-2)
