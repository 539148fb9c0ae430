"""Cases and checks of a step's tail with drafts, for every path it takes: torch on a CPU, the interpreter, a GPU."""

from __future__ import annotations

import random
from typing import Any

import torch
from tail_cases import FIGURES, STOPS, M, V, aligned, memory, on, same
from torch import Tensor

import genarm_kernels
from genarm_kernels import GuidedSample, Texts, reference
from genarm_kernels.dispatch import INTERPRETED
from genarm_kernels.reference.step import end_of
from genarm_kernels.step.rules import EOS, ERROR, GOING_ON, NEVER, STOP
from genarm_kernels.step.texts import ACCEPTED, PROPOSED, REASON, STATUS, TAKEN

FILLING = 4


def make_texts(
    prompts: list[list[int]], Q: int, stops: Tensor | None = None, eos: tuple[int, ...] = (),
    limits: int | list[int] = 9, seen: bool = False, kept: bool = False, device: str = "cpu",
    columns: int | None = None,
) -> Texts:  # fmt: skip
    """Before the first step of up to Q draws. ``kept``: what is known of each token. ``columns``: behind those that
    rows may fill, by default what torch needs. A row that is nobody's lies behind each tensor."""
    B, limits = len(prompts), [limits] * len(prompts) if isinstance(limits, int) else limits
    columns = Q if columns is None else columns
    T = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)) + columns
    n = max(limits) + columns

    def new(value: float, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.full((shape[0] + 1, *shape[1:]), value, dtype=dtype, device=device)[:-1]

    def of_rows(values: list[int]) -> Tensor:
        return torch.tensor([*values, 77], device=device)[:-1]

    figures = [new(torch.nan, *shape, dtype=torch.float32) for shape in ((B, n), (B, n, M), (B, n)) if kept]
    texts = Texts(
        texts=new(FILLING, B, T),
        positions=of_rows([len(prompt) for prompt in prompts]),
        counts=new(0, B),
        limits=of_rows(limits),
        tokens=of_rows([prompt[-1] if prompt else 0 for prompt in prompts]),
        reasons=new(GOING_ON, B),
        report=new(77, Q + 5, B),
        eos_ids=torch.tensor((*eos, 4), device=device)[:-1],
        stops=torch.zeros(0, 0, dtype=torch.int64, device=device) if stops is None else stops.to(device),
        seen=new(0, B, V + 3, dtype=torch.bool)[:, :V] if seen else None,
        **dict(zip(FIGURES, figures, strict=False)),
    ).checked()
    for row, prompt in enumerate(prompts):
        texts.texts[row, : len(prompt)] = torch.tensor(prompt, device=device)
    return texts


def make_draws(
    draws: list[list[int]], status: list[list[int]] | None = None, kept: bool = False, scale: float = 1.0
) -> GuidedSample:
    """One row's draws per list."""
    flat, count = [token for row in draws for token in row], sum(map(len, draws))
    numbers = torch.arange(1.0, count + 1) * scale
    figures = (numbers, torch.arange(float(count * M)).view(count, M) * scale, -numbers) if kept else (None,) * 3
    faults = [fault for row in status for fault in row] if status else [0] * count
    return GuidedSample(
        torch.tensor(flat, dtype=torch.int64), figures[0], figures[1],
        torch.tensor(faults, dtype=torch.int32), figures[2],
    )  # fmt: skip


def step(
    texts: Texts, sample: GuidedSample, drafts: list[list[int]], proposed: list[int] | None = None
) -> dict[int, list[int]]:
    """One step of the operation, held against its oracle: every tensor to the last bit, and what lies behind it, but
    for what torch may write behind a row's end. -> what it reports."""
    B, device = len(drafts), texts.texts.device.type
    width = len(drafts[0]) if drafts else 0
    given = torch.tensor(drafts, dtype=torch.int64).view(B, width)
    offered = torch.tensor([width] * B if proposed is None else proposed, dtype=torch.int64)
    taken, expected = reference.accept(on(sample, "cpu"), given, offered, on(texts, "cpu"))
    around = [None if one is None else memory(one).clone() for one in texts]
    found = genarm_kernels.accept(on(sample, device), given.to(device), offered.to(device), texts)
    assert found.tolist() == taken.tolist()
    for name, own, truth, whole in zip(Texts._fields, texts, expected, around, strict=True):
        assert (own is None) == (truth is None)
        if own is not None and truth is not None and whole is not None:
            assert own.dtype == truth.dtype
            whole.as_strided(own.shape, own.stride(), own.storage_offset()).copy_(truth)
            assert same(*_defined(name, texts, memory(own), whole)), name
    return dict(enumerate(texts.report[texts.most :].tolist()))


def _defined(name: str, texts: Texts, found: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    """Without what stands behind rows' ends, where a kernel does not write."""
    if INTERPRETED or found.is_cuda or name not in ("texts", *FIGURES):
        return found, expected
    ends = torch.cat([texts.positions if name == "texts" else texts.counts, torch.zeros(1, dtype=torch.int64)])
    behind = torch.arange(found.shape[1]) >= ends[:, None]
    behind[-1] = False
    behind = behind.view(*behind.shape, *[1] * (found.ndim - 2))
    return found.masked_fill(behind, 0), expected.masked_fill(behind, 0)


def check_random(
    B: int, Q: int, steps: int = 3, more: int = 0, faults: float = 0.04, device: str = "cpu", **options: Any
) -> None:
    """Drafts that are right now and then: whatever they are, a row's text is what it is without."""
    chance = random.Random(B * 100 + Q)
    prompts = [[chance.randrange(V) for _ in range(chance.randrange(1, 4))] for _ in range(B)]
    limits = [chance.randrange(1, 2 * Q + 3) for _ in range(B)]
    targets = [[chance.randrange(V) for _ in range(limit + Q)] for limit in limits]
    texts = make_texts(prompts, Q + more, limits=limits, device=device, **options)
    for number in range(steps):
        drafts, draws = [], []
        for target, count in zip(targets, texts.counts.tolist(), strict=True):
            own = target[count : count + Q]
            drafts.append([token if chance.random() < 0.8 else chance.randrange(V) for token in own[:-1]])
            agrees = [drafts[-1][:place] == own[:place] for place in range(Q)]
            draws.append([own[place] if agrees[place] else chance.randrange(V) for place in range(Q)])
        status = [[int(chance.random() < faults) << chance.randrange(9) for _ in range(Q)] for _ in range(B)]
        proposed = [chance.choice([Q - 1, chance.randrange(Q)]) for _ in range(B)]
        step(texts, make_draws(draws, status, options.get("kept", False), number + 1.0), drafts, proposed)
    eos, stops = texts.eos_ids.tolist(), texts.stops.tolist()
    for row, (target, limit) in enumerate(zip(targets, limits, strict=True)):
        check_text(texts, row, [end_of(target[: place + 1], eos, stops) for place in range(limit)], target)


def check_text(texts: Texts, row: int, ends: list[int], target: list[int]) -> None:
    """The row's new tokens are the first of those, up to the first that is an end."""
    count, position, reason = (int(one[row]) for one in (texts.counts, texts.positions, texts.reasons))
    assert texts.texts[row, position - count : position].tolist() == target[:count]
    assert not any(ends[: count - 1]) and count <= len(ends)
    assert reason in ((ends[count - 1],) if count and ends[count - 1] else (GOING_ON, ERROR))


EVERYTHING: dict[str, Any] = {
    "stops": aligned(STOPS[:4], 4),
    "eos": (3, NEVER, NEVER, NEVER),
    "seen": True,
    "kept": True,
}


def check_everything(device: str = "cpu") -> None:
    """Several programs, fewer places than the report has, and numbers that fill no program."""
    check_random(9, 3, 4, 2, device=device, **EVERYTHING)
    check_random(5, 8, 2, device=device, **EVERYTHING)


def check_plain_steps(device: str = "cpu") -> None:
    """Without drafts each row takes one token, in a column of its own."""
    check_random(33, 1, 3, device=device, **EVERYTHING)


def check_nothing_kept(device: str = "cpu") -> None:
    check_random(3, 2, 2, device=device)


def check_what_is_taken(device: str = "cpu") -> None:
    """Drafts count from the first on, as far as they were proposed, and the first draw that differs is the last."""
    drafts = [[0, 1, 2]] * 8
    draws = [
        [0, 1, 2, 3],
        [1, 1, 2, 3],
        [0, 0, 2, 3],
        [0, 1, 0, 3],
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [1, 0, 0, 0],
        [0, 1, 2, 0],
    ]
    proposed = [3, 3, 3, 3, 2, 0, 1, 3]
    texts = make_texts([[4]] * 8, 4, limits=[9, 9, 9, 9, 9, 9, 9, 2], seen=True, device=device)
    found = step(texts, make_draws(draws), drafts, proposed)
    assert found[TAKEN] == [4, 1, 2, 3, 3, 1, 1, 2] and found[ACCEPTED] == [3, 0, 1, 2, 2, 0, 0, 2]
    assert found[PROPOSED] == proposed and found[REASON] == found[STATUS] == [0] * 8
    assert texts.tokens.tolist() == [3, 1, 0, 0, 2, 0, 1, 1] and texts.counts.tolist() == found[TAKEN]
    # A row that is full, or holds more than it may, stays as it is.
    texts.limits[6] = 0
    found = step(texts, make_draws(draws), drafts, proposed)
    assert found[TAKEN][6:] == found[ACCEPTED][6:] == found[PROPOSED][6:] == [0, 0]
    assert texts.tokens[6:].tolist() == [1, 1] and texts.reasons.tolist() == [GOING_ON] * 8


def check_ends_inside(device: str = "cpu") -> None:
    """By EOS, a fault or a stop sequence that is met inside of a draft, and not by one behind a draw that differs."""
    texts = make_texts([[2]] * 8, 3, aligned(([0, 1], [3]), 2), (3, 4), [9, 9, 9, 9, 9, 1, 2, 9], device=device)
    drafts = [[0, 4], [0, 1], [0, 2], [0, 2], [1, 3], [0, 4], [0, 4], [4, 4]]
    draws = [[0, 4, 4], [0, 1, 4], [0, 2, 1], [1, 4, 4], [1, 3, 3], [0, 4, 4], [0, 4, 4], [4, 4, 4]]
    status = [[0, 0, 8], [0, 0, 8], [0, 1, 0], [0, 2, 2], [0, 0, 0], [0, 4, 4], [0, 0, 0], [256, 1, 1]]
    found = step(texts, make_draws(draws, status), drafts)
    assert found[TAKEN] == [2, 2, 1, 1, 2, 1, 2, 0] and found[ACCEPTED] == [2, 2, 1, 0, 2, 1, 2, 0]
    assert found[REASON] == [EOS, STOP, ERROR, GOING_ON, EOS, GOING_ON, EOS, ERROR] == texts.reasons.tolist()
    assert found[STATUS] == [0, 0, 1, 0, 0, 0, 0, 256] and texts.tokens.tolist() == [4, 1, 0, 1, 3, 0, 4, 2]
    # Ended rows stay as they are, whatever is drawn for them.
    found = step(texts, make_draws([[3, 3, 3]] * 8, [[1, 1, 1]] * 8), drafts)
    assert found[TAKEN] == found[ACCEPTED] == [0] * 8 and found[PROPOSED] == [0, 0, 0, 2, 0, 0, 0, 0]
    assert found[REASON] == [EOS, STOP, ERROR, ERROR, EOS, GOING_ON, EOS, ERROR] == texts.reasons.tolist()
    assert found[STATUS] == [0, 0, 0, 1, 0, 0, 0, 0]


def check_stop_sequences(device: str = "cpu") -> None:
    """They begin with the first new token at the earliest, and go from step to step and from draft to draft."""
    stops = aligned(([1, 2, 3, 0, 1], [4, 4, 4], [3, 2], [0, 4]), 5)
    texts = make_texts([[0], [1, 2, 3], [4, 3], [4, 4]], 3, stops, device=device)
    found = step(texts, make_draws([[1, 2, 0], [0, 1, 4], [2, 3, 2], [4, 0, 4]]), [[1, 3], [0, 1], [2, 3], [4, 0]])
    assert found[TAKEN] == [2, 3, 3, 3] and found[REASON] == [GOING_ON, GOING_ON, STOP, STOP]
    found = step(texts, make_draws([[3, 0, 1], [4, 4, 0], [0] * 3, [0] * 3]), [[3, 0], [4, 4], [0, 0], [0, 0]])
    assert found[TAKEN] == [3, 2, 0, 0] and found[REASON] == [STOP] * 4
    assert texts.counts.tolist() == [5, 5, 3, 3]


def check_long_and_many(device: str = "cpu") -> None:
    """More sequences than are loaded at once, found by their first place too, in rows of one program each."""
    stops = aligned(([4, 0, 1, 2, 3], [4, 2, 3], [4, 3], [4, 1], [1, 2, 3, 0], [0, 2]), 5)
    texts = make_texts([[1]] * 5, 5, stops, limits=20, device=device)
    draws = [[0, 1, 2, 3, 0], [2, 0, 2, 3, 0], [4, 2, 0, 1, 2], [1, 4, 0, 1, 2], [3, 4, 1, 2, 3]]
    found = step(texts, make_draws(draws), [draw[:-1] for draw in draws])
    assert found[TAKEN] == [5, 3, 5, 5, 3]
    found = step(texts, make_draws([[3, 0, 0, 0, 0]] * 5), [[0] * 4] * 5)
    assert found[TAKEN] == [0, 0, 1, 1, 0] and found[REASON] == [STOP, STOP, GOING_ON, STOP, STOP]


def check_rows_alone(device: str = "cpu") -> None:
    """A row comes to the same bits whatever its batch and its place there."""
    options: dict[str, Any] = {**EVERYTHING, "device": device}
    whole, alone = make_texts([[0, 1]] * 10, 4, **options), make_texts([[0, 1]], 4, **options)
    sample, drafts = make_draws([[2, 1, 2, 3]] * 10, None, True), [[0, 0, 0]] * 9 + [[2, 1, 2]]
    last = GuidedSample(*(None if one is None else one[36:] for one in sample))  # type: ignore[arg-type]
    step(whole, sample, drafts)
    step(alone, last, drafts[9:])
    for name in ("tokens", "positions", "reasons", "report", "seen"):
        assert same(
            getattr(whole, name).movedim(-1 if name == "report" else 0, 0)[9:].flatten(), getattr(alone, name).flatten()
        )
    for name in FIGURES:
        assert same(getattr(whole, name)[9:, :4], getattr(alone, name)[:, :4]), name


def check_nothing_is_written_beyond(device: str = "cpu") -> None:
    """A kernel needs no columns behind those that rows may fill, and notes no id that there is not."""
    options: dict[str, Any] = {"seen": True, "kept": True, "device": device, "columns": 0}
    texts = make_texts([[0], [1, 2]], 4, limits=[2, 1], **options)
    step(texts, make_draws([[1, 2, 3, 3]] * 2, None, True), [[1, 2, 3]] * 2)
    assert texts.counts.tolist() == [2, 1]
    assert texts.seen is not None and memory(texts.seen).sum() == 3
    # Limits beyond the columns, which nobody should give; what would fall behind them falls on rows that are full.
    full = make_texts([[0], [1, 2], [3], [3]], 4, limits=1, **options)
    full.limits.copy_(torch.tensor([9, 9, 0, 0], device=device))
    tables = [memory(getattr(full, name)) for name in ("texts", *FIGURES)]
    before = [one.clone() for one in tables]
    draws = [[V, V, 1, 1], [-1, -1, 1, 1], [0] * 4, [0] * 4]
    sample = on(make_draws(draws, None, True), device)
    before[0][0, 1:], before[0][1, 2] = V, -1
    for one, name in zip(before[1:], FIGURES, strict=True):
        one[:2, 0] = getattr(sample, name)[0:8:4]
    drafts = torch.tensor([row[:3] for row in draws], device=device)
    found = genarm_kernels.accept(sample, drafts, torch.full((4,), 3, device=device), full)
    assert found.tolist() == [4, 4, 0, 0] and all(map(same, tables, before))
    assert full.seen is not None and memory(full.seen).nonzero().tolist() == [[0, 1], [1, 1]]


CHECKS = (
    check_everything, check_plain_steps, check_nothing_kept, check_what_is_taken, check_ends_inside,
    check_stop_sequences, check_long_and_many, check_rows_alone,
)  # fmt: skip
