"""Broken variants of the element-wise steps' kernels: norm, SwiGLU, rotation and store, and the LoRA expand in each."""

from collections.abc import Callable

import pytest
import step_cases as cases
import torch
from mutations import Mutation, edited, proofs

from genarm_kernels.layer import activation, lora, norm, rotary

pytestmark = [pytest.mark.mutants, pytest.mark.interpreter]


def several_blocks() -> None:
    cases.check_norm(2, 600, torch.float32)


def longer_than_a_block() -> None:
    cases.check_norm(2, norm.LARGEST + 40, torch.float32)


def three_adapters() -> None:
    cases.check_norm(4, 96, torch.float32, 3, 5)


def of_a_large_rank() -> None:
    cases.check_norm(4, 96, torch.float32, 1, 40)


def rounded() -> None:
    cases.check_norm(4, 512, torch.bfloat16)


def gated() -> None:
    cases.check_swiglu(3, 520, torch.float32)


def gated_with_adapters() -> None:
    cases.check_swiglu(4, 72, torch.float32, 3, 5)


def rotated() -> None:
    cases.check_rotary(3, 4, 2, 16, torch.float32)


def normed() -> None:
    cases.check_rotary(3, 4, 2, 12, torch.float32, norm=True)


def rotated_with_adapters() -> None:
    cases.check_rotary(4, 4, 2, 16, torch.float32, 3, 5)


def elsewhere() -> None:
    cases.check_rotary(4, 2, 1, 16, torch.float32, positions=[-1, 12, 3, 11], rows=[5, 0, 1, 2])


def started() -> None:
    cases.check_starts(torch.float32)


def many_heads() -> None:
    cases.check_rotary(1, 5, 3, 128, torch.float32)


MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "last column dropped":
        (edited(norm.add_rms_norm_kernel, "mask = columns < N", "mask = columns < N - 1"), three_adapters),
    "only a row's first block normed":
        (edited(norm.add_rms_norm_kernel, "tl.static_range(len(sums))", "tl.static_range(1)", 2), longer_than_a_block),
    "mean over the block":
        (edited(norm.add_rms_norm_kernel, "tl.sum(squares, 0) / N", "tl.sum(squares, 0) / BLOCK"), several_blocks),
    "every second square left out":
        (edited(norm.sum_two_squares, "second * second", "0 * second"), several_blocks),
    "only some of a head's squares": (edited(norm.sum_neighbours, "first + second", "first"), normed),
    "residual not stored":
        (edited(norm.add_rms_norm_kernel, "rounded, mask=mask", "rounded, mask=columns < 0"), rounded),
    "the sum normed before its rounding": (
        edited(norm.add_rms_norm_kernel, "value = rounded.to(tl.float32)", "pass"),
        cases.check_norm_is_hugging_face_s),
    "another adapter's shrinks":
        (edited(lora.expand_columns, "(adapter * TARGETS + target)", "(target)"), three_adapters),
    "another adapter's B": (edited(lora.expand_columns, "up += adapter.to(tl.int64)", "up += 0"), three_adapters),
    "the first adapter left out": (edited(lora.expand_columns, "adapter >= 0", "adapter >= 1"), three_adapters),
    "ranks behind the last read": (edited(lora.expand_columns, "place < RANK", "place < STEP", 2), three_adapters),
    "only the first ranks":
        (edited(lora.expand_columns, "range(0, RANK, STEP)", "range(0, STEP, STEP)"), of_a_large_rank),
    "last column of SwiGLU dropped":
        (edited(activation.swiglu_kernel, "columns < WIDTH", "columns < WIDTH - 1"), gated),
    "only the first block": (edited(activation.swiglu_kernel, "tl.program_id(1) * BLOCK", "0 * BLOCK"), gated),
    "gate and up swapped": (
        edited(activation.swiglu_kernel, "/ (1.0 + tl.exp(-gate)) * value", "* value / (1.0 + tl.exp(-value))"),
        gated),
    "gate's shrinks for up":
        (edited(activation.swiglu_kernel, "adapter, 1, WIDTH", "adapter, 0, WIDTH"), gated_with_adapters),
    "gate's B for up":
        (edited(activation.swiglu_kernel, "adapter, 1, WIDTH + columns", "adapter, 1, columns"), gated_with_adapters),
    "rotated the other way":
        (edited(rotary.rotary_store_kernel, "s * -1.0", "s * 1.0"), rotated),
    "second halves not rotated":
        (edited(rotary.rotary_store_kernel, "tl.fma(second, c, first * s)", "second"), rotated),
    "v rotated too": (edited(rotary.rotary_store_kernel, "if kind < 2:", "if kind < 3:"), rotated),
    "k not rotated": (edited(rotary.rotary_store_kernel, "if kind < 2:", "if kind < 1:"), rotated),
    "k stored over v": (edited(rotary.rotary_store_kernel, "target = value_cache +", "target = key_cache +"), rotated),
    "only the first heads":
        (edited(rotary.rotary_store_kernel, "head = block * HEADS", "head = 0 * HEADS"), many_heads),
    "k's weight for q": (
        edited(rotary.rotary_store_kernel, "if kind == 1:\n                weight",
            "if kind >= 0:\n                weight"),
        normed),
    "a head's mean over the block": (edited(rotary.head_scale, "/ D + eps", "/ (2 * HALF_BLOCK) + eps"), normed),
    "stored before the cache":
        (edited(rotary.rotary_store_kernel, "(position >= 0) & (position < T)", "position < T"), elsewhere),
    "stored behind the cache":
        (edited(rotary.rotary_store_kernel, "(position >= 0) & (position < T)", "position >= 0"), elsewhere),
    "rows ignored": (edited(rotary.rotary_store_kernel, "if ROWS:", "if not ROWS:"), elsewhere),
    "stored at its position": (edited(rotary.rotary_store_kernel, "stored = position -", "stored ="), started),
    "a token's start for its row's":
        (edited(rotary.rotary_store_kernel, "starts + (tl.load(rows + row)", "starts + (row"), started),
    "rotated by its place":
        (edited(rotary.rotary_store_kernel, "tl.where(inside, position, 0)", "tl.where(inside, stored, 0)"), started),
    "stored before its row's start":
        (edited(rotary.rotary_store_kernel, "(stored >= 0) & (stored < T)", "(stored < T)"), started),
    "stored behind its row's end":
        (edited(rotary.rotary_store_kernel, "(stored >= 0) & (stored < T)", "(stored >= 0)"), started),
    "angles below the first read":
        (edited(rotary.rotary_store_kernel, "& (position >= 0) & (position < angle", "& (position < angle"), started),
    "angles beyond the last read":
        (edited(rotary.rotary_store_kernel, " & (position < angle_count)", ""), started),
    "one target's shrinks for all":
        (edited(rotary.load_half, "up, adapter, kind, start +", "up, adapter, 0, start +"), rotated_with_adapters),
    "q's B for all": (edited(rotary.load_half, "kind, start + columns", "kind, columns"), rotated_with_adapters),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
