"""A row's settings may lie at any address: what was compiled for one that is a multiple of 16 serves all others."""

from __future__ import annotations

from dataclasses import replace

import particle_cases
import pytest
import step_cases
import torch
from kernel_cases import make_logits
from specialisations import Specialisation, at_addresses, specialised

from genarm_kernels import noise, rotary_store, swiglu
from genarm_kernels.layer import activation, rotary
from genarm_kernels.particles import resample
from genarm_kernels.sampling import kernels
from genarm_kernels.sampling.arguments import prepare

BF16 = torch.bfloat16


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Specialisation]:
    """Every kernel that a call would have launched, with what it would have been compiled for."""
    for module in (activation, rotary, noise, resample):
        monkeypatch.setattr(module, "INTERPRETED", True)
    return specialised(monkeypatch)


# Every value that a row may have, in the order that `prepare` takes them.
ROWS = {
    "weights": torch.ones(3, 2),
    "temperature": torch.ones(3),
    "top_k": torch.full((3,), 5),
    "top_p": torch.full((3,), 0.9),
    "min_p": torch.full((3,), 0.1),
    "base_min_p": torch.full((3,), 0.1),
    "base_top_p": torch.full((3,), 0.9),
    "bias": torch.zeros(3, 3001),
    "seed": torch.arange(3),
    "position": torch.arange(3),
}
KINDS = {"no filter": ["weights", "temperature", "seed", "position"], "everything": [*ROWS]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_is_compiled_once_wherever_the_rows_settings_lie(kind: str, found: list[Specialisation]) -> None:
    off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "base_min_p": 0.0, "base_top_p": 1.0, "bias": None}
    places = {name: at_addresses(values) if name in KINDS[kind] else (off[name],) * 2 for name, values in ROWS.items()}
    shares = at_addresses(torch.ones(3, 2))
    # An odd number of ids, so that logits are loaded one by one wherever the bias lies.
    logits = make_logits(3, 3001, 2, (BF16,))
    calls = []
    for place in (0, 1):
        inputs = prepare(logits, *(value[place] for value in places.values()), None)
        asked = kind == "everything"
        inputs = replace(inputs, normalizer_weights=shares[place] if asked else None, greedy=None)
        kernels.guided_sample(inputs, asked, asked)
        kernels.guided_log_probs(inputs, asked)
        calls.append([*found])
        found.clear()
    assert calls[0] == calls[1] and len(calls[0]) == (20 if asked else 4)


def test_particles_are_resampled_by_one_kernel_wherever_their_rows_lie(found: list[Specialisation]) -> None:
    values = (
        particle_cases.make_weights(2, 16), particle_cases.make_uniforms(2), torch.ones(2, dtype=torch.bool),
        torch.full((2,), 0.5, dtype=torch.float64),
    )  # fmt: skip
    for place in zip(*map(at_addresses, values), strict=True):
        resample.resample(*place)
    for place in zip(*map(at_addresses, (torch.arange(2), torch.arange(2), torch.ones(2, 5).long())), strict=True):
        noise.uniforms(*place, 0)
    assert len(found) == 4 and found[0] == found[1] and found[2] == found[3]


def test_steps_are_compiled_once_wherever_adapters_and_positions_lie(found: list[Specialisation]) -> None:
    R, D = 2, 64
    for adapters, positions, rows in zip(
        *map(at_addresses, (torch.zeros(R, dtype=torch.int32), torch.arange(R), torch.arange(R))), strict=True
    ):
        for widths in ((D, D, D), (D, D)):
            lora = replace(step_cases.make_lora(R, widths, 1, 4, BF16), adapters=adapters)
            z = step_cases.make_rows(R, step_cases.columns(widths, lora), BF16)
            if len(widths) == 2:
                swiglu(z, lora)
            else:
                caches = step_cases.make_caches(R, 8, 1, D, BF16, "cpu", "contiguous")
                rotary_store(z, *step_cases.make_angles(8, D), positions, *caches, 1, lora, rows)
    assert found[:2] == found[2:] and len(found) == 4
