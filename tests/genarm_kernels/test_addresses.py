"""What kernels read one value at a time may lie at any address: what was compiled for a multiple of 16 serves all."""

from __future__ import annotations

from dataclasses import replace

import accept_cases
import particle_cases
import pytest
import step_cases
import torch
from kernel_cases import make_logits
from specialisations import Specialisation, at_addresses, specialised

from genarm_kernels import Sharing, add_rms_norm, decode_attention, noise, rotary_store, swiglu
from genarm_kernels.layer import activation, attention, embed, norm, residual, rotary, shared_attention
from genarm_kernels.logprobs import kernels as logprobs
from genarm_kernels.particles import follow, resample
from genarm_kernels.sampling import kernels
from genarm_kernels.sampling.arguments import prepare
from genarm_kernels.step import accept

BF16 = torch.bfloat16


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Specialisation]:
    """Every kernel that a call would have launched, with what it would have been compiled for."""
    sharing = (shared_attention, attention)
    for module in (accept, activation, embed, follow, noise, norm, resample, residual, rotary, *sharing):
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


def test_draws_are_accepted_by_one_kernel_wherever_their_drafts_lie(found: list[Specialisation]) -> None:
    drafts, proposed = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    for place in zip(*map(at_addresses, (drafts, proposed)), strict=True):
        accept.accept(accept_cases.make_draws([[0] * 4] * 2), *place, accept_cases.make_texts([[0]] * 2, 4))
    assert len(found) == 2 and found[0] == found[1]


def test_steps_are_compiled_once_wherever_adapters_and_positions_lie(found: list[Specialisation]) -> None:
    R, D = 2, 64
    for adapters, positions, rows in zip(
        *map(at_addresses, (torch.zeros(R, dtype=torch.int32), torch.arange(R), torch.arange(R))), strict=True
    ):
        for widths in ((D, D, D), (D, D), (D,)):
            lora = replace(step_cases.make_lora(R, widths, 1, 4, BF16), adapters=adapters)
            z = step_cases.make_rows(R, step_cases.columns(widths, lora), BF16)
            if len(widths) == 1:
                add_rms_norm(z, step_cases.make_rows(R, D, BF16), torch.ones(D, dtype=BF16), 1e-5, lora)
            elif len(widths) == 2:
                swiglu(z, lora)
            else:
                caches = step_cases.make_caches(R, 8, 1, D, BF16, "cpu", "contiguous")
                angles = step_cases.make_angles(8, D)
                rotary_store(z, *angles, positions, *caches, 1, lora, rows)
                rotary_store(z, *angles, positions, *caches, 1, lora, rows, starts=adapters)
    assert found[:4] == found[4:] and len(found) == 8


def test_a_residual_is_begun_and_added_to_by_one_kernel_each(found: list[Specialisation]) -> None:
    S, B, N = 2, 1, 64
    weight, x = torch.zeros(N + 4, 32, dtype=BF16), torch.zeros(S * B, 32, dtype=BF16)
    values = torch.zeros(B, 1, dtype=torch.int64), torch.zeros(S * B, dtype=torch.int32)
    settings = torch.zeros(2, dtype=torch.int32), torch.zeros(S * B, dtype=torch.int32)
    for tokens, lengths, counters, adapters in zip(*map(at_addresses, values + settings), strict=True):
        own, _ = embed.embed(tokens, torch.zeros(9, N, dtype=BF16), lengths, counters)
        lora = replace(step_cases.make_lora(S * B, (N,), 1, 4, BF16), adapters=adapters)
        residual.add_linear(own, x, weight, None, lora)
    assert found[:2] == found[2:] and len(found) == 4


def test_attention_is_compiled_once_wherever_lengths_and_arrivals_lie(found: list[Specialisation]) -> None:
    query, cache = torch.zeros(2, 1, 2, 16, dtype=BF16), torch.zeros(2, 8, 1, 16, dtype=BF16)
    counters = attention.new_arrivals(2, 2, 1, "cpu")
    for lengths, arrivals in zip(*map(at_addresses, (torch.ones(2, dtype=torch.int32), counters)), strict=True):
        decode_attention(query, cache, cache, lengths, arrivals=arrivals)
    assert found[0] == found[1] and len(found) == 2


def test_shared_attention_is_compiled_once_wherever_what_rows_share_lies(found: list[Specialisation]) -> None:
    query, cache, prefix = (torch.zeros(2, n, 2 if n == 1 else 1, 16, dtype=BF16) for n in (1, 8, 24))
    one = torch.ones(2, dtype=torch.int32)
    for values in zip(*map(at_addresses, (one, one, one, one, one, torch.zeros(3, dtype=torch.int32))), strict=True):
        sharing = Sharing(*values[1:])
        shared_attention.shared_attention(query, cache, cache, values[0], prefix, prefix, sharing)
    assert found[:2] == found[2:] and len(found) == 4


def test_rows_follow_by_one_kernel_wherever_their_origins_and_lengths_lie(found: list[Specialisation]) -> None:
    origins, lengths = torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.int32)
    for place in zip(*map(at_addresses, (origins, lengths, lengths)), strict=True):
        follow.follow_rows(torch.zeros(1, 2, 2, 1, 8, 16, dtype=BF16), *place)
    assert found[0] == found[1] and len(found) == 2


@pytest.mark.parametrize("C", [3, 300], ids=["pieces apart", "rows whole"])
def test_log_probs_of_any_rows_of_a_batch_are_compiled_once(C: int, found: list[Specialisation]) -> None:
    logits = torch.empty(C, 20000, dtype=BF16)
    rows = torch.zeros(C, dtype=torch.int64), torch.zeros(C), torch.zeros(C), torch.zeros(C)
    for token_ids, own, totals, grads in zip(*map(at_addresses, rows), strict=True):
        logprobs.finish_rows(logits, token_ids, -100, own, totals, True)
        logprobs.finish_columns(logits, token_ids, -100, totals, grads, 0)
    kernels = 3 if C == 3 else 2
    assert found[:kernels] == found[kernels:] and len(found) == 2 * kernels
