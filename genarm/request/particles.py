"""Answers drawn by weight from systems of particles: what a call asks of them, checked.

A system is N rows of one prompt. Its seed is the prompt's own, and so is its first particle's; the others' follow from
it, so that nothing depends on what else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from genarm_kernels.particles.resample import MOST_PARTICLES

from ..errors import InvalidArgumentError
from .guidance import attempt_seeds, per_row

# What only a call with particles may have: name -> default.
COMPANIONS: dict[str, Any] = {
    "resample_below": 0.5,
    "resample_every": 1,
    "terminal": None,
    "length_bonus": 0.0,
    "return_particles": False,
}


@dataclass(frozen=True, slots=True)
class Particles:
    """Systems of ``count`` particles, of each of which ``answers`` are drawn by weight.

    They are resampled where the effective sample size is under ``resample_below`` · count, looked at every
    ``resample_every`` tokens. ``length_bonus``: nats per token added to log-weights. ``terminal``: what scores finished
    answers, by exp(score / beta); ``beta`` is one, or [P]. ``keeps_all``: the caller wants to see every particle.
    """

    count: int
    answers: int = 1
    resample_below: float = 0.5
    resample_every: int = 1
    length_bonus: float = 0.0
    terminal: Any = None
    beta: float | Tensor = 1.0
    keeps_all: bool = False


def read_particles(options: Mapping[str, Any], answers: int, prompts: int, device: torch.device) -> Particles | None:
    """The particles that the options of a call with so many ``prompts`` ask for; None where they ask for none.

    Raises:
        InvalidArgumentError: one of them is wrong, or makes no sense without particles.
    """
    count = options.get("particles")
    if count is None:
        for name, default in COMPANIONS.items():
            if options.get(name, default) is not default and options[name] != default:
                raise InvalidArgumentError(f"{name} is about particles, and there are none: pass particles=N with it")
        return None
    given = {**COMPANIONS, **{name: value for name, value in options.items() if name in COMPANIONS}}
    return Particles(
        count=_whole("particles", count),
        answers=answers,
        resample_below=_number("resample_below", given["resample_below"], 0.0, 1.0),
        resample_every=_whole("resample_every", given["resample_every"]),
        length_bonus=_number("length_bonus", given["length_bonus"]),
        terminal=given["terminal"],
        beta=per_row("beta", options.get("beta", 1.0), prompts, device),
        keeps_all=bool(given["return_particles"]),
    )


def check_count(particles: Particles, device: torch.device) -> None:
    """Refuse more particles of one prompt than a GPU resamples at once.

    Raises:
        InvalidArgumentError: there are.
    """
    if device.type == "cuda" and particles.count > MOST_PARTICLES:
        raise InvalidArgumentError(
            f"particles is {particles.count}: a GPU resamples at most {MOST_PARTICLES} of one prompt; pass fewer, or "
            "repeat the prompt"
        )


def check_warm(temperature: float | Tensor) -> None:
    """Refuse particles at temperature 0.

    Raises:
        InvalidArgumentError: a row has it.
    """
    if bool((torch.as_tensor(temperature) == 0).any()):
        raise InvalidArgumentError(
            "particles draw answers by weight, and at temperature 0 all of a system are the same answer: pass a "
            "temperature above 0, or leave particles out"
        )


def particle_seeds(seeds: Sequence[int], count: int) -> list[int]:
    """The row seeds of the particles of P systems, one system's behind the other's."""
    return [one for seed in seeds for one in attempt_seeds(seed, count)]


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InvalidArgumentError(f"{name} is {value!r}: pass an integer of at least 1")
    return int(value)


def _number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, Real)
        or not math.isfinite(value)
        or not low <= float(value) <= high
    ):
        span = f" from {low:g} to {high:g}" if high < math.inf else ""
        raise InvalidArgumentError(f"{name} is {value!r}: pass a finite number{span}")
    return float(value)
