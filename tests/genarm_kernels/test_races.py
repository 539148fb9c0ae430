"""Every kernel, by what its programs read and write of each other's: in whatever order they run, the result is one."""

import importlib
import pkgutil
from collections.abc import Callable

import accept_cases
import kernel_cases
import linear_cases
import logprobs_cases
import particle_cases
import pytest
import shared_attention_cases
import step_cases
import tail_cases
import torch
import triton
import triton.language as tl
from races import watched
from triton.runtime.jit import KernelInterface

from genarm_kernels import (
    __path__ as path,
)
from genarm_kernels import (
    add_rms_norm,
    decode_attention,
    guided_log_probs,
    guided_sample,
    ngram_draft,
    noise,
    resample,
    rotary_store,
    swiglu,
)
from genarm_kernels.layer import linear
from genarm_kernels.layer.embed import embed
from genarm_kernels.layer.residual import COUNTERS, add_linear, normed_linear
from genarm_kernels.logprobs import kernels

pytestmark = pytest.mark.interpreter


def sampling() -> None:
    """A whole group and a short one, filters of either kind, all that can be asked for."""
    logits = kernel_cases.make_logits(2, 1100, 2)
    filters = {"top_k": 40, "top_p": 0.9, "base_min_p": 0.001}
    guided_sample(logits, [1.0, -0.5], seed=3, return_logprobs=True, return_normalizers=True, **filters)
    guided_log_probs(logits, [1.0, -0.5], return_normalizers=True)


def attention() -> None:
    """Rows of several splits, of one and of none; two tokens, two heads to a key head."""
    query, keys, values = torch.randn(3, 2, 4, 16), *torch.randn(2, 3, 150, 2, 16)
    decode_attention(query, keys, values, torch.tensor([150, 10, 0], dtype=torch.int32))


def shared_prefixes() -> None:
    """Two prefixes of several splits and one of none, several tiles and programs; rows that NaN splits apart."""
    inputs = shared_attention_cases.Case(3, 8, 2, 16).make([0, 0, 1, 2, 0], [140, 90, 70, 0, 140], [9, 0, 70, 3, 1])
    inputs.prefix_values[0, 120] = torch.nan
    inputs.call()


def element_wise_steps() -> None:
    R, H, H_kv, D = 2, 4, 2, 16
    for widths, step in (((H * D, H_kv * D, H_kv * D), "rotary"), ((64,), "norm"), ((600, 600), "swiglu")):
        lora = step_cases.make_lora(R, widths, 2, 3, torch.float32)
        z = step_cases.make_rows(R, step_cases.columns(widths, lora), torch.float32)
        if step == "norm":
            add_rms_norm(z, torch.randn(R, 64), torch.ones(64), 1e-5, lora)
        elif step == "swiglu":
            swiglu(z, lora)
        else:
            caches = step_cases.make_caches(R, 5, H_kv, D, torch.float32, "cpu", "contiguous")
            rotary_store(z, *step_cases.make_angles(5, D), torch.tensor([1, 4]), *caches, H, lora)


def products() -> None:
    with linear_cases.split_without_a_price():
        linear.linear_by_kernel(torch.randn(3, 640), torch.randn(40, 640))


def residual_of_few_rows() -> None:
    """Its beginning, a product of its norm, and what is added to it with two adapters."""
    N, counters = 72, torch.zeros(COUNTERS, dtype=torch.int32)
    residual, _ = embed(torch.tensor([[1], [4]]), torch.randn(9, N), torch.zeros(4, dtype=torch.int32), counters)
    normed_linear(residual, torch.ones(N), 1e-5, torch.randn(50, N))
    lora = step_cases.make_lora(4, (N,), 2, 3, torch.float32)
    assert lora is not None
    for _ in range(2):
        add_linear(residual, torch.randn(4, 40), torch.randn(N + lora.shrinks, 40), None, lora)
    assert not counters.any()


def log_probabilities() -> None:
    """Rows of two pieces, apart and together, and columns of two blocks."""
    logits, token_ids = torch.randn(2, 2112)[:, :2100], torch.tensor([3, 700])
    for apart in (True, False):
        with logprobs_cases.small_blocks(), logprobs_cases.pieces(apart):
            kernels.finish_rows(logits[:, :600], token_ids, -100, *torch.empty(2, 2), True)
    kernels.finish_columns(logits, token_ids, -100, torch.ones(2), torch.ones(2), 5)


def particles() -> None:
    weights = particle_cases.make_weights(2, 6)
    resample(weights, particle_cases.make_uniforms(2), torch.ones(2, dtype=torch.bool), 1.0)
    particle_cases.check_tails()
    zeros = torch.zeros(2, dtype=torch.int64)
    noise.uniforms(zeros, zeros, torch.arange(200)[None], noise.RESAMPLE)


def lookups() -> None:
    """Rows of several parts, of one and of nothing."""
    texts = torch.arange(1500).remainder(700).expand(3, -1)
    drafts, proposed = ngram_draft(texts, torch.tensor([1500, 900, 0]), 3)
    assert proposed.tolist() == [3, 3, 0] and drafts[0].tolist() == [100, 101, 102]


KERNELS: dict[Callable[[], None], str] = {
    sampling: "group bound gather select regroup draw log_probs",
    attention: "attention",
    shared_prefixes: "prefixes attention",
    element_wise_steps: "add_rms_norm rotary_store swiglu",
    products: "linear sum_parts",
    residual_of_few_rows: "embed linear add_linear",
    log_probabilities: "piece_sums finish_rows finish_columns",
    particles: "resample follow_rows uniforms",
    tail_cases.check_several_programs: "advance",
    accept_cases.check_everything: "accept",
    lookups: "match copy",
}
# What other kernels call.
PARTS_OF_KERNELS = {"exponential", "noise"}


@pytest.mark.parametrize(("run", "names"), KERNELS.items(), ids=[run.__name__ for run in KERNELS])
def test_programs_of_a_launch_leave_each_other_s_memory_alone(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[], None], names: str
) -> None:
    watch = watched(monkeypatch)
    run()
    assert watch.kernels == {f"{name}_kernel" for name in names.split()} and watch.races == []


def test_no_kernel_is_forgotten() -> None:
    modules = [importlib.import_module(found.name) for found in pkgutil.walk_packages(path, "genarm_kernels.")]
    there = {
        name.removesuffix("_kernel")
        for module in modules
        for name, value in vars(module).items()
        if name.endswith("_kernel") and isinstance(value, KernelInterface)
    }
    assert there == PARTS_OF_KERNELS | {name for names in KERNELS.values() for name in names.split()}


@triton.jit
def neighbours_kernel(values, counter, COUNTED: tl.constexpr, RESET: tl.constexpr):
    """Each program stores a value; the last one, or the last to count, reads what the first has stored."""
    program = tl.program_id(0)
    tl.store(values + program, program)
    last = program == tl.num_programs(0) - 1
    if COUNTED:
        last = tl.atomic_add(counter, 1) == tl.num_programs(0) - 1
    if last:
        tl.store(values + program, tl.load(values))
        if RESET:
            tl.store(counter, 0)


@triton.jit
def one_place_kernel(values, READ: tl.constexpr):
    """All programs store to one place, or read it beside the one that stores."""
    if READ and tl.program_id(0) < 2:
        tl.store(values + 1 + tl.program_id(0), tl.load(values))
    else:
        tl.store(values, tl.program_id(0))


@pytest.mark.parametrize(("counted", "reset"), [(True, True), (True, False), (False, False), (False, True)])
def test_a_counter_puts_programs_in_order(monkeypatch: pytest.MonkeyPatch, counted: bool, reset: bool) -> None:
    watch = watched(monkeypatch)
    neighbours_kernel[(3,)](torch.zeros(3), torch.zeros(1, dtype=torch.int32), counted, reset)
    assert (watch.races == []) == counted


@pytest.mark.parametrize("read", [False, True])
def test_two_programs_at_one_place_are_seen(monkeypatch: pytest.MonkeyPatch, read: bool) -> None:
    watch = watched(monkeypatch)
    one_place_kernel[(3,)](torch.zeros(3), read)
    assert {(first, second) for _, first, second, _ in watch.races} >= {((0, 0, 0), (2, 0, 0))}
