"""Rows that make the search for a threshold hard, and checks of what filters keep, for any device."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from genarm_kernels import guided_log_probs, guided_sample, reference
from genarm_kernels.sampling import filters

FEW = 64
INF = torch.inf
SETTINGS = {
    "top_k 1": {"top_k": 1},
    "top_k 13": {"top_k": 13},
    "top_k V - 1": {"top_k": -1},
    "top_k V - 2": {"top_k": -2},
    "top_p 0": {"top_p": 0.0},
    "top_p": {"top_p": 0.7},
    "top_p near 1": {"top_p": 0.999999},
    "min_p": {"min_p": 0.05},
    "top_k and top_p": {"top_k": 300, "top_p": 0.8},
    "cold": {"temperature": 0.01, "top_k": 60, "top_p": 0.9},
    "hot": {"temperature": 3.0, "top_p": 0.9, "min_p": 0.3},
    "all": {"temperature": 1.3, "top_k": 90, "top_p": 0.95, "min_p": 0.01},
}
OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def hard_rows(V: int, device: str = "cpu") -> Tensor:
    """Logits [R, V] float32, a row of each kind."""
    generator = torch.Generator().manual_seed(V)
    normal, uniform = (make(5, V, generator=generator) for make in (torch.randn, torch.rand))
    spread = torch.where(uniform[0] < 0.5, -1.0, 1.0) * 10.0 ** (44 * uniform[1] - 38)
    few = torch.full((V,), -INF)
    few[:: max(1, V // 3)] = torch.arange(len(few[:: max(1, V // 3)])).float()
    peaked = normal[3] * 0.1
    peaked[V // 2] = 18.0
    rows = {
        "normal": 2 * normal[0],
        "wide": 20 * normal[1],
        "all equal": torch.full((V,), -3.25),
        "two values": torch.where(uniform[2] < 0.3, 1.0, -1.0),
        "ties on a grid": (2 * normal[2]).round() / 2,
        "exponents from -38 to 6": spread,
        "negative": -50 - normal[1].abs(),
        "neighbouring floats": 1 + torch.arange(V)[torch.randperm(V, generator=generator)] * 2.0**-23,
        "one far above": peaked,
        "few left": few,
        "large": 1e6 * normal[4],
        "nearly flat": 0.01 * normal[0],
    }
    return torch.stack(list(rows.values())).to(device)


def columns(rows: int, V: int, turn: int, device: str = "cpu") -> dict[str, Tensor]:
    """The settings, one a row, from the turn-th on."""
    chosen = [list(SETTINGS.values())[(row + turn) % len(SETTINGS)] for row in range(rows)]
    values = {name: [setting.get(name, OFF[name]) for setting in chosen] for name in OFF}
    values["top_k"] = [k if k >= 0 else max(1, V + k) for k in values["top_k"]]
    return {name: torch.tensor(column, device=device) for name, column in values.items()}


def kept(logits: Sequence[Tensor] | Tensor, weights: Sequence[float] = (1.0,), **options: object) -> Tensor:
    models = [logits] if isinstance(logits, Tensor) else logits
    return guided_log_probs(models, list(weights), **options) > -INF


def assert_keeps_the_oracle_s_ids(
    logits: Sequence[Tensor] | Tensor, weights: Sequence[float] = (1.0,), **options: object
) -> None:
    """Just the oracle's ids stay, but those whose mass above is top_p to float32's rounding may fall on either side."""
    call = ([logits] if isinstance(logits, Tensor) else logits, list(weights))
    ours = guided_log_probs(*call, **options)
    expected = reference.guided_log_probs(*call, **options)
    fewest = most = expected
    if "top_p" in options:
        p = torch.as_tensor(options["top_p"], device=ours.device)
        slack = torch.where(p < 1, 2.5e-7, 0.0)
        fewest = reference.guided_log_probs(*call, **{**options, "top_p": (p - slack).clamp_min(0)})
        most = reference.guided_log_probs(*call, **{**options, "top_p": p + slack})
    missing = ((fewest > -INF) & ~(ours > -INF)).sum(1)
    beyond = ((ours > -INF) & ~(most > -INF)).sum(1)
    assert not bool(missing.any()) and not bool(beyond.any()), (missing.tolist(), beyond.tolist())
    both = (ours > -INF) & (expected > -INF)
    torch.testing.assert_close(ours[both], expected[both], rtol=1e-5, atol=3e-5)


# Checks that a mutant is held against.

CHECKS: list[Callable[..., None]] = []


def check(function: Callable[..., None]) -> Callable[..., None]:
    CHECKS.append(function)
    return function


@check
def hard_rows_keep_the_oracle_s_ids(device: str = "cpu") -> None:
    rows = hard_rows(1500, device)
    assert_keeps_the_oracle_s_ids(rows, **columns(len(rows), 1500, 5, device))


@check
def top_k_keeps_as_many_as_it_says(device: str = "cpu") -> None:
    # One large id in each of the three groups, then ties.
    logits = torch.zeros(4, 2100, device=device)
    logits[:, [5, 1030, 2099]] = torch.tensor([5.0, 4.0, 3.0], device=device)
    counts = kept(logits, top_k=torch.tensor([1, 2, 3, 4], device=device)).sum(1)
    assert counts.tolist() == [1, 2, 3, 2100]


@check
def top_p_within_top_k_counts_ties_at_top_k_s_bound(device: str = "cpu") -> None:
    # Top-k leaves two of about equal mass, each the largest of its group, so top-p 0.6 needs both.
    logits = torch.full((1, 2100), -9.0, device=device)
    logits[0, 5], logits[0, 1030] = 0.0, -0.1
    assert kept(logits, top_k=2, top_p=0.6)[0].nonzero()[:, 0].tolist() == [5, 1030]


@check
def top_p_within_top_k_counts_all_of_top_k_s_mass(device: str = "cpu") -> None:
    # Ten ids with a tenth each, the others 0.2 in all: 0.52 of the whole of top-k needs seven, of the ten alone six.
    V = 1500
    logits = torch.full((1, V), math.log(0.2 / (V - 10)), device=device)
    logits -= torch.arange(V, device=device) * 1e-6
    logits[0, :10] = math.log(0.1) - torch.arange(10, device=device) * 1e-5
    assert kept(logits, top_k=1400, top_p=0.52)[0].nonzero()[:, 0].tolist() == list(range(7))


@check
def masses_are_compared_to_the_unit(device: str = "cpu") -> None:
    # 512 values so close that each has a mass of exactly 1: a half of the mass is just 256 of them.
    logits = torch.full((3, 1100), -INF, device=device)
    logits[:, :512] = torch.arange(512, device=device) * 1e-30
    counts = kept(logits, top_p=torch.tensor([0.5, 0.25, 0.0], device=device)).sum(1)
    assert counts.tolist() == [256, 128, 1]


@check
def min_p_is_relative_to_the_largest_that_is_left(device: str = "cpu") -> None:
    # The base's filter takes away the id that the reward likes most.
    base, reward = torch.zeros(1, 1100, device=device), torch.zeros(1, 1100, device=device)
    base[0, 7] = -9.0
    base[0, 8:] = -20.0
    reward[0, 7] = 30.0
    left = kept([base, reward], [1.0, 1.0], base_min_p=1e-3, min_p=0.5)
    assert left[0].nonzero()[:, 0].tolist() == list(range(7))


@check
def groups_have_the_mass_of_what_is_left_at_its_temperature(device: str = "cpu") -> None:
    logits = torch.full((6, 2100), -1.0, device=device)
    logits[:, [5, 6, 1027]] = torch.tensor([2.0, 1.0, 2.5], device=device)
    options = {"temperature": 0.5, "top_k": 3}
    ours = guided_sample([logits], [1.0], seed=3, return_logprobs=True, **options)
    theirs = reference.guided_sample([logits], [1.0], seed=3, return_logprobs=True, **options)
    assert torch.equal(ours.tokens, theirs.tokens)
    assert torch.allclose(ours.logprobs, theirs.logprobs, atol=1e-5)


@check
def top_p_may_need_almost_every_id(device: str = "cpu") -> None:
    logits = -torch.arange(2100, device=device)[None] * 1e-3
    assert_keeps_the_oracle_s_ids(logits, top_p=0.99)


@check
def top_p_within_top_k_counts_what_min_p_takes(device: str = "cpu") -> None:
    # Masses 1, 0.9 and 0.8 of which min-p leaves the first two; 0.5 of 2.7 needs both, of 1.9 the first alone.
    logits = torch.full((1, 1100), -30.0, device=device)
    logits[0, :3] = torch.tensor([1.0, 0.9, 0.8], device=device).log()
    assert kept(logits, top_p=0.5, min_p=0.85)[0].nonzero()[:, 0].tolist() == [0, 1]
    assert kept(logits, top_k=3, top_p=0.5, min_p=0.85)[0].nonzero()[:, 0].tolist() == [0, 1]


@check
def top_p_is_of_what_top_k_left(device: str = "cpu") -> None:
    # Top-k leaves 5/9 and 4/9.
    logits = torch.full((1, 1100), -30.0, device=device)
    logits[0, :4] = torch.tensor([0.5, 0.4, 0.06, 0.04], device=device).log()
    assert kept(logits, top_k=2, top_p=0.55)[0].nonzero()[:, 0].tolist() == [0]
    assert kept(logits, top_k=3, top_p=0.55)[0].nonzero()[:, 0].tolist() == [0, 1]


@check
def top_k_leaves_a_group_that_ties(device: str = "cpu") -> None:
    logits = torch.full((1, 2100), -9.0, device=device)
    logits[0, [5, 1030, 2060]] = 1.0
    sample = guided_sample([logits], [1.0], top_k=2, return_logprobs=True)
    assert abs(float(sample.logprobs) + math.log(3)) < 1e-5


# Of the kernels alone, which search among more candidates than they take at once in steps.


def many_candidates_keep_the_oracle_s_ids() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "CAPACITY", FEW)
        rows = hard_rows(1500)
        assert_keeps_the_oracle_s_ids(rows, **columns(len(rows), 1500, 3))


def many_candidates_are_shortened_to_those_in_range() -> None:
    # 1,024 values a step apart, of which just k stay wherever the range of the k-th begins and ends.
    logits = torch.full((1, 1100), -torch.inf)
    logits[0, :1024] = torch.arange(1024) * 2.0**-10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "CAPACITY", FEW)
        for k in (1, 63, 300, 301, 640, 1023):
            assert int(kept(logits, top_k=k).sum()) == k


INTERPRETED_CHECKS = (many_candidates_keep_the_oracle_s_ids, many_candidates_are_shortened_to_those_in_range)
