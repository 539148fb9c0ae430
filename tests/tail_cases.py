"""Cases and checks of a step's tail, for every path it takes: torch on a CPU, the interpreter, a GPU."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

import genarm_kernels
from genarm_kernels import GuidedSample, Progress, reference
from genarm_kernels.step.rules import ANY_TOKEN, EOS, ERROR, GOING_ON, NEVER, STOP

V, N, PAD, M = 5, 6, 4, 3
# Of lengths 1 to 4.
STOPS = ([0, 1], [2, 2, 2, 2], [3, 3, 0], [4], [1, 1])
FIGURES = ("logprobs", "model_logprobs", "log_normalizers")


def aligned(stops: tuple[list[int], ...], length: int, count: int = 0) -> Tensor:
    """[S, L], ANY_TOKEN on the left, and as many that never match as make up the count."""
    rows = [[ANY_TOKEN] * (length - len(stop)) + stop for stop in stops]
    rows += [[NEVER] * length] * (count - len(rows))
    return torch.tensor(rows, dtype=torch.int64).view(len(rows), length)


def make_progress(
    B: int, stops: Tensor | None = None, eos: tuple[int, ...] = (), n: int = N, seen: bool = False, kept: bool = False,
    device: str = "cpu",
) -> Progress:  # fmt: skip
    """Before the first step. ``kept``: what is known of each token. A row that is nobody's lies behind each tensor."""

    def new(value: float, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.full((shape[0] + 1, *shape[1:]), value, dtype=dtype, device=device)[:-1]

    figures = [new(torch.nan, *shape, dtype=torch.float32) for shape in ((B, n), (B, n, M), (B, n)) if kept]
    return Progress(
        step=new(0, 1),
        arrived=new(0, 1, dtype=torch.int32),
        tokens=new(77, B),
        positions=new(5, B),
        generated=new(PAD, B, n),
        reasons=new(GOING_ON, B),
        report=new(77, 3, B),
        eos_ids=torch.tensor((*eos, 4), device=device)[:-1],
        stops=torch.zeros(0, 0, dtype=torch.int64, device=device) if stops is None else stops.to(device),
        seen=new(0, B, V + 3, dtype=torch.bool)[:, :V] if seen else None,
        **dict(zip(FIGURES, figures, strict=False)),
    ).checked()


def make_sample(
    tokens: list[int], status: list[int] | None = None, kept: bool = False, scale: float = 1.0
) -> GuidedSample:
    B = len(tokens)
    figures: list[Tensor | None] = [None, None, None]
    if kept:
        figures = [
            torch.arange(float(B)) * scale,
            torch.arange(float(B * M)).view(B, M) * scale,
            -scale - torch.arange(B),
        ]
    return GuidedSample(
        torch.tensor(tokens, dtype=torch.int64), figures[0], figures[1],
        torch.tensor(status or [0] * B, dtype=torch.int32), figures[2],
    )  # fmt: skip


def step(progress: Progress, sample: GuidedSample, excuse_ended: bool = False) -> None:
    """One step of the operation, held against its oracle: every tensor to the last bit, and what lies behind it."""
    expected = reference.advance(on(sample, "cpu"), on(progress, "cpu"), PAD, excuse_ended)
    around = [None if one is None else memory(one).clone() for one in progress]
    genarm_kernels.advance(on(sample, progress.tokens.device.type), progress, PAD, excuse_ended)
    for name, found, truth, whole in zip(Progress._fields, progress, expected, around, strict=True):
        assert (found is None) == (truth is None)
        if found is not None and truth is not None and whole is not None:
            assert found.dtype == truth.dtype
            whole.as_strided(found.shape, found.stride(), found.storage_offset()).copy_(truth)
            assert same(memory(found), whole), name


def memory(tensor: Tensor) -> Tensor:
    """All that a tensor is a part of."""
    return tensor if tensor._base is None else tensor._base


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(77), other.nan_to_num(77))


def on(tensors: Any, device: str) -> Any:
    return type(tensors)(*(None if one is None else one.to(device) for one in tensors))


def check_random(B: int, steps: int = N, device: str = "cpu", **options: Any) -> None:
    """Draws of few ids, with faults now and then, until all columns are full."""
    chance = random.Random(B)
    progress = make_progress(B, device=device, **options)
    for number in range(steps):
        tokens = [chance.randrange(V) for _ in range(B)]
        status = [int(chance.random() < 0.1) << chance.randrange(9) for _ in range(B)]
        step(
            progress, make_sample(tokens, status, options.get("kept", False), number + 1.0), options.get("kept", False)
        )
    assert progress.step.tolist() == [steps] and progress.arrived.tolist() == [0]


def check_several_programs(device: str = "cpu") -> None:
    """Each program reads the step that the last one counts."""
    for B, steps in ((1, 1), (33, 2)):
        check_random(B, steps, device, stops=aligned(STOPS[3:], 2), eos=(3,), seen=True, kept=True)


def check_everything(device: str = "cpu") -> None:
    check_random(5, 5, device, stops=aligned(STOPS[:4], 4), eos=(3, NEVER, NEVER, NEVER), seen=True, kept=True)


def check_nothing_kept(device: str = "cpu") -> None:
    check_random(3, 2, device)


def ends(texts: list[list[int]], stops: Tensor, device: str = "cpu") -> list[int]:
    """How the last tokens of texts, one per row, end them."""
    progress, length = make_progress(len(texts), stops, device=device), len(texts[0])
    progress.generated[:, : length - 1] = torch.tensor([text[:-1] for text in texts], device=device)
    progress.step.fill_(length - 1)
    step(progress, make_sample([text[-1] for text in texts]))
    return progress.reasons.tolist()


def check_ends_of_stop_sequences(device: str = "cpu") -> None:
    """Of every length, met by the last token, not by one before, and never by what is before the first."""
    stops = aligned(([0], [1, 1], [2, 3, 2], [3, 3, 3, 3]), 4)
    texts = [[1, 2, 0], [2, 1, 1], [2, 3, 2], [3, 2, 3], [0, 1, 2], [2, 2, 2], [1, 2, 1], [3, 3, 3], [1, 1, 4]]
    assert ends(texts, stops, device) == [STOP] * 3 + [GOING_ON] * 6
    assert ends([[3, 3, 3, 3], [2, 3, 3, 3]], stops, device) == [STOP, GOING_ON]


def check_first_tokens(device: str = "cpu") -> None:
    """A sequence begins with the first new token at the earliest: not in padding, nor in another row's text."""
    stops = aligned(([1], [PAD, 2], [3, 3]), 4)
    assert ends([[1], [2], [3]], stops, device) == [STOP, GOING_ON, GOING_ON]
    assert ends([[0, 3], [PAD, 2], [0, 2]], stops, device) == [GOING_ON, STOP, GOING_ON]
    last = make_progress(2, stops, device=device)
    last.generated[0, -1] = 3
    step(last, make_sample([0, 3]))
    assert last.reasons.tolist() == [GOING_ON, GOING_ON]


def check_long_and_many(device: str = "cpu") -> None:
    """More places and sequences than are loaded at once, and numbers that fill no whole load."""
    text = [0, 1, 2, 3, 1]
    stops = aligned(([4, 2, 3, 1], [4, 3, 1], [4, 1], [4], text), 5)
    texts = [text, [4, *text[1:]], [*text[:4], 0], [0, 4, 2, 3, 1]]
    assert ends(texts, stops, device) == [STOP, GOING_ON, GOING_ON, STOP]
    assert ends([text, [2, 4, 3, 4, 1], [4, *text[:4]]], stops[:4], device) == [GOING_ON, STOP, GOING_ON]


def check_which_end(device: str = "cpu") -> None:
    """A fault before EOS, EOS before a stop sequence, and an end stays what it is."""
    progress = make_progress(6, aligned(([2], [1]), 1), (0, 2, 0, 0, 0, 3), device=device)
    step(progress, make_sample([2, 1, 2, 1, 4, 3], [0, 0, 1, 256, 0, 0]))
    assert progress.reasons.tolist() == [EOS, STOP, ERROR, ERROR, GOING_ON, EOS]
    step(progress, make_sample([1, 2, 4, 2, 4, 1], [0, 4, 0, 1, 0, 0]))
    assert progress.reasons.tolist() == [EOS, STOP, ERROR, ERROR, GOING_ON, EOS]
    assert progress.generated[:, :2].tolist() == [[2, PAD], [1, PAD], [PAD, PAD], [PAD, PAD], [4, 4], [3, PAD]]


def check_faults_of_ended_rows(device: str = "cpu") -> None:
    """Excused, they are 0 in the report; one of a row that goes on is not."""
    for excuse in (False, True):
        progress = make_progress(3, None, (1,), device=device)
        step(progress, make_sample([1, 2, 2], [0, 0, 0]), excuse)
        step(progress, make_sample([2, 2, 2], [3, 3, 0]), excuse)
        assert progress.report.tolist() == [[2, 2, 2], [EOS, ERROR, GOING_ON], [0 if excuse else 3, 3, 0]]


def check_rows_alone(device: str = "cpu") -> None:
    """A row comes to the same bits whatever its batch and its place there."""
    options: dict[str, Any] = {"stops": aligned(STOPS, 4), "eos": (3,), "seen": True, "kept": True, "device": device}
    whole, alone = make_progress(10, **options), make_progress(1, **options)
    whole.generated[9, :2] = alone.generated[0, :2] = torch.tensor([1, 3], device=device)
    whole.step.fill_(2), alone.step.fill_(2)
    sample = make_sample([2] * 9 + [0], None, True)
    last = GuidedSample(*(None if one is None else one[9:] for one in sample))  # type: ignore[arg-type]
    step(whole, sample)
    step(alone, last)
    for name in ("tokens", "generated", "reasons", "seen", *FIGURES):
        assert same(getattr(whole, name)[9:], getattr(alone, name)), name


def check_nothing_is_written_beyond(device: str = "cpu") -> None:
    """A kernel, which reads no step back, writes nothing behind the last column, nor at an id that there is not."""
    progress = make_progress(2, aligned(([1, 1],), 2), seen=True, kept=True, device=device)
    progress.step.fill_(N)
    kept = [memory(getattr(progress, name)) for name in ("generated", "seen", *FIGURES)]
    before = [one.clone() for one in kept]
    genarm_kernels.advance(on(make_sample([V, -1], None, True), device), progress, PAD)
    assert all(map(same, kept, before))


CHECKS = (
    check_several_programs, check_everything, check_nothing_kept, check_ends_of_stop_sequences, check_first_tokens,
    check_long_and_many, check_which_end, check_faults_of_ended_rows, check_rows_alone,
)  # fmt: skip
