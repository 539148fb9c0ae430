"""Cases and checks of token_logprobs: for torch's path on a CPU, for the kernels in the interpreter and on a GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genarm_kernels import reference, token_logprobs
from genarm_kernels.dispatch import INTERPRETED
from genarm_kernels.logprobs import blocks, kernels

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
BF16, FP16, FP32, FP64 = DTYPES


class Case(NamedTuple):
    hidden: Tensor  # [N, H]
    lm_head: Tensor  # [V, H]
    token_ids: Tensor  # [N], the second of every three rows ignored
    bias: Tensor  # [V]


def case(N: int, V: int, H: int, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> Case:
    generator = torch.Generator().manual_seed(seed)
    hidden, lm_head, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in ((N, H), (V, H), V)
    )
    token_ids = torch.randint(V, (N,), generator=generator)
    token_ids[1::3] = -100
    return Case(hidden, lm_head, token_ids.to(device), bias)


def plain(hidden: Tensor, lm_head: Tensor, token_ids: Tensor, bias: Tensor | None = None) -> Tensor:
    """What one writes in torch: all logits, then cross-entropy in float32."""
    logits = F.linear(hidden, lm_head, bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return -F.cross_entropy(logits, token_ids, reduction="none")


def results(op: Callable[..., Tensor], *tensors: Tensor, grads: Tensor, token_ids: Tensor) -> list[Tensor]:
    """log p and the gradients of hidden, lm_head and bias."""
    hidden, lm_head, *bias = (tensor.detach().requires_grad_() for tensor in tensors)
    logprobs = op(hidden, lm_head, token_ids, *bias)
    return [logprobs.detach(), *torch.autograd.grad(logprobs, [hidden, lm_head, *bias], grads.to(logprobs.dtype))]


@contextmanager
def small_blocks() -> Iterator[None]:
    """Products of few rows and columns, and a row in several blocks and parts, at sizes that can be afforded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "ELEMENTS", 2**12)
        patch.setattr(blocks, "CPU_ELEMENTS", 2**12)
        patch.setattr(kernels, "BLOCK_BYTES", 1024)
        yield


@contextmanager
def pieces(apart: bool) -> Iterator[None]:
    """Each of a row's pieces has a program of its own, or none has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "are_apart", lambda C, processors: apart)
        yield


def no_further_from_the_truth_than_torch(N: int, V: int, H: int, dtype: torch.dtype, device: str, bias: bool) -> None:
    hidden, lm_head, token_ids, offset = case(N, V, H, dtype, device)
    tensors = (hidden, lm_head, offset) if bias else (hidden, lm_head)
    grads = torch.linspace(-1.0, 2.0, N, device=device)
    exact = results(reference.token_logprobs, *(t.double() for t in tensors), grads=grads, token_ids=token_ids)
    ours = results(token_logprobs, *tensors, grads=grads, token_ids=token_ids)
    theirs = results(plain, *tensors, grads=grads, token_ids=token_ids)
    slack = 1e-12 if dtype == torch.float64 else 1e-5
    # The interpreter cuts float32 to bfloat16 instead of rounding it: twice the error, and all in one direction.
    share = 5.0 if INTERPRETED and dtype == torch.bfloat16 else 1.1
    for name, our, their, truth in zip(("log p", "hidden", "lm_head", "bias"), ours, theirs, exact, strict=False):
        assert our.dtype == their.dtype and our.shape == truth.shape
        error, usual, size = (float(v.double().square().mean().sqrt()) for v in (our - truth, their - truth, truth))
        # d log p / d hidden is rounded before it is multiplied by the grads.
        rounding = torch.finfo(dtype).eps / 2 * size if name == "hidden" else 0.0
        assert error <= share * usual + rounding + slack, f"{name} at V = {V}, {dtype}"
    assert bool((ours[0][1::3] == 0).all()) and bool((ours[1][1::3] == 0).all())


def log_probs_and_gradients_are_as_near_as_torch(device: str = "cpu") -> None:
    for V, dtype in (
        (1, BF16), (2, FP16), (15, FP32), (17, FP64), (255, BF16), (1023, FP64), (3000, FP16), (3000, FP32)
    ):  # fmt: skip
        no_further_from_the_truth_than_torch(7, V, 24, dtype, device, bias=V % 2 == 0)


def blocks_and_parts_join(device: str = "cpu") -> None:
    with small_blocks():
        # Blocks of rows and of columns; pieces of a row apart, the last of fewer blocks; pieces of a row together.
        no_further_from_the_truth_than_torch(18, 1100, 24, torch.bfloat16, device, bias=True)
        with pieces(apart=False):
            for dtype in DTYPES[1:3]:
                no_further_from_the_truth_than_torch(3, 1100, 24, dtype, device, bias=False)


def gradients_are_those_of_finite_differences(device: str = "cpu") -> None:
    for V in (1, 11, 140):
        hidden, lm_head, token_ids, bias = case(3, V, 2, torch.float64, device)
        inputs = tuple(tensor.requires_grad_() for tensor in (hidden, lm_head, bias))
        with small_blocks():
            assert torch.autograd.gradcheck(
                lambda h, w, b, ids=token_ids: token_logprobs(h, w, ids, b), inputs, fast_mode=V > 1
            )


def any_strides_will_do(device: str = "cpu") -> None:
    hidden, lm_head, token_ids, bias = case(9, 70, 20, torch.float32, device)
    grads = torch.linspace(-1.0, 2.0, 9, device=device)
    expected = results(token_logprobs, hidden, lm_head, bias, grads=grads, token_ids=token_ids)
    room = torch.full((80, 33), torch.nan, device=device)
    room[:70, 5:25] = lm_head
    wide = torch.full((9, 2, 41), torch.nan, device=device)
    wide[:, 1, 1::2] = hidden
    ids = torch.stack([token_ids, token_ids], 1)[:, 0]
    for tensors in ((wide[:, 1, 1::2], room[:70, 5:25]), (hidden.T.contiguous().T, lm_head.T.contiguous().T)):
        found = results(token_logprobs, *tensors, bias, grads=grads, token_ids=ids)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def a_row_does_not_depend_on_what_other_rows_hold(device: str = "cpu") -> None:
    hidden, lm_head, token_ids, bias = case(12, 600, 16, torch.bfloat16, device)
    token_ids = token_ids.clamp(min=0)
    wild = torch.full_like(hidden, torch.nan)
    wild[::3] = 1e30
    for place in (0, 11):
        mixed = wild.clone()
        mixed[place] = hidden[place]
        one = torch.nn.functional.one_hot(torch.tensor(place), 12).to(device)
        found, expected = (
            results(token_logprobs, h, lm_head, bias, grads=one, token_ids=token_ids) for h in (mixed, hidden)
        )
        assert torch.equal(found[0][place], expected[0][place]) and torch.equal(found[1][place], expected[1][place])


def ignored_rows_count_for_nothing(device: str = "cpu") -> None:
    hidden, lm_head, token_ids, bias = case(12, 300, 16, torch.float32, device)
    counted = token_ids != -100
    grads = torch.linspace(-1.0, 2.0, 12, device=device)
    expected = results(
        token_logprobs, hidden[counted], lm_head, bias, grads=grads[counted], token_ids=token_ids[counted]
    )
    hidden[~counted] = torch.nan
    grads[~counted] = torch.nan
    for ignore_index, ids in ((-100, token_ids), (300, torch.where(counted, token_ids, 300))):
        op = lambda h, w, i, b, ignore=ignore_index: token_logprobs(h, w, i, b, ignore_index=ignore)  # noqa: E731
        logprobs, d_hidden, d_head, d_bias = results(op, hidden, lm_head, bias, grads=grads, token_ids=ids)
        assert bool((logprobs[~counted] == 0).all()) and bool((d_hidden[~counted] == 0).all())
        found = [logprobs[counted], d_hidden[counted], d_head, d_bias]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def a_vocabulary_s_id_may_be_the_one_to_ignore(device: str = "cpu") -> None:
    hidden, lm_head, token_ids, _ = case(9, 40, 8, torch.float32, device)
    call = (hidden, lm_head, token_ids.clamp(min=3))
    found = token_logprobs(*call, ignore_index=3)
    assert bool((found[call[2] == 3] == 0).all())
    torch.testing.assert_close(found.double(), reference.token_logprobs(*call, ignore_index=3), rtol=1e-5, atol=1e-5)


def masked_tokens_and_bad_values_stay_where_they_are(device: str = "cpu") -> None:
    hidden, lm_head, _, bias = case(6, 2000, 8, torch.float32, device)
    token_ids = torch.tensor([3, 1999, 0, 5, 6, 7], device=device)
    bias[[3, 600, 1998]] = -torch.inf
    grads = torch.ones(6, device=device)
    hidden[4] = torch.nan
    hidden[5] = torch.inf
    logprobs, d_hidden, _, _ = results(token_logprobs, hidden, lm_head, bias, grads=grads, token_ids=token_ids)
    exact = results(reference.token_logprobs, hidden, lm_head, bias, grads=grads, token_ids=token_ids)
    assert float(logprobs[0]) == -torch.inf
    torch.testing.assert_close(logprobs[1:4].double(), exact[0][1:4], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(d_hidden[:4].double(), exact[1][:4].double(), rtol=1e-4, atol=1e-5)
    assert bool(logprobs[4:].isnan().all()) and bool(d_hidden[4:].isnan().all())
    assert bool(token_logprobs(hidden[:4], lm_head, token_ids[:4], torch.full_like(bias, -torch.inf)).isnan().all())


def large_logits_keep_their_differences(device: str = "cpu") -> None:
    hidden = torch.full((3, 1), 100.0, device=device)
    lm_head = torch.linspace(-30.0, 30.0, 700, device=device)[:, None]
    token_ids = torch.tensor([0, 350, 699], device=device)
    found, exact = (op(hidden, lm_head, token_ids) for op in (token_logprobs, reference.token_logprobs))
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-3)


def no_rows_give_no_results(device: str = "cpu") -> None:
    hidden, lm_head, token_ids, bias = case(6, 30, 8, torch.float32, device)
    for rows, ids in ((hidden[:0], token_ids[:0]), (hidden, torch.full_like(token_ids, -100))):
        found = results(token_logprobs, rows, lm_head, bias, grads=torch.ones(len(rows), device=device), token_ids=ids)
        assert found[0].shape == (len(rows),) and found[0].dtype == torch.float32
        assert all(bool((value == 0).all()) for value in found)


CHECKS = (
    log_probs_and_gradients_are_as_near_as_torch,
    blocks_and_parts_join,
    gradients_are_those_of_finite_differences,
    any_strides_will_do,
    a_row_does_not_depend_on_what_other_rows_hold,
    ignored_rows_count_for_nothing,
    a_vocabulary_s_id_may_be_the_one_to_ignore,
    masked_tokens_and_bad_values_stay_where_they_are,
    large_logits_keep_their_differences,
    no_rows_give_no_results,
)
