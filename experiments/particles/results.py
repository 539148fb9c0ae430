"""All figures of a run, from what was decoded in every setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np

from experiments.particles.cells import (
    BEST_OF,
    BEST_OF_WEIGHTS,
    CHECKED,
    EVIDENCE_WEIGHTS,
    FILTERS,
    OBJECTIVE,
    PROMPTS,
    Cell,
)
from experiments.particles.decoding import Draws, best_of
from experiments.particles.gap import closed, left
from experiments.particles.matched import at_equal_share, sums
from experiments.particles.metrics import difference, figures
from genarm.cli.demo import PROMPTS as DEMO_PROMPTS

All = Mapping[Cell, Draws]
CHECKED_PARTICLES = 4


def results(frontier: All, lengths: All, evidence: All) -> dict[str, Any]:
    """Everything that the page shows, and the most of what it says."""
    points = [_point(cell, draws, frontier) for cell, draws in frontier.items()]
    return {
        "objective": OBJECTIVE,
        "points": points,
        "best_of": _best_of(frontier),
        "matched": _matched(frontier, lengths, points),
        "lengths": [figures(draws, cell) for cell, draws in lengths.items()],
        "no_bonus": _no_bonus(points, lengths),
        "level_bonus": _level_bonus(points, lengths),
        "checks": _checks(frontier),
        "demo": _demo(frontier),
        "gaps": _gaps(frontier, evidence),
    }


def find(cells: All, weight: float, base_min_p: float, particles: int) -> tuple[Cell, Draws]:
    """The one setting of these."""
    wanted = (weight, base_min_p, particles)
    return next(item for item in cells.items() if (item[0].weight, item[0].base_min_p, item[0].particles) == wanted)


def _point(cell: Cell, draws: Draws, frontier: All) -> dict[str, Any]:
    found = figures(draws, cell)
    if cell.particles > 1:
        _, plain = find(frontier, cell.weight, cell.base_min_p, 1)
        found["gap_closed"] = closed(plain["evidence"], draws["evidence"]).as_dict()
    return found


def _best_of(frontier: All) -> list[dict[str, Any]]:
    found = []
    for base_min_p in FILTERS:
        for weight in BEST_OF_WEIGHTS:
            cell, draws = find(frontier, weight, base_min_p, 1)
            found.append({"best_of": BEST_OF, **figures(best_of(draws, BEST_OF), cell)})
    return found


def _matched(frontier: All, lengths: All, points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every setting of particles beside plain decoding under the same filter, where that is on topic as often."""
    found, seeds = [], count()
    for base_min_p in FILTERS:
        plain = [item for item in frontier.items() if (item[0].base_min_p, item[0].particles) == (base_min_p, 1)]
        curve = [(cell.weight, sums(draws["rows"], next(seeds))) for cell, draws in plain]
        variety = [p["distinct_texts"]["value"] for p in points if (p["base_min_p"], p["particles"]) == (base_min_p, 1)]
        for cell, draws in (*frontier.items(), *lengths.items()):
            if cell.base_min_p == base_min_p and cell.particles > 1:
                there = at_equal_share(curve, sums(draws["rows"], next(seeds)))
                if there is not None:
                    there["distinct_texts"] = float(np.interp(there["weight"], [w for w, _ in curve], variety))
                own = figures(draws, cell)
                kept = ("weight", "base_min_p", "particles", "length_bonus", "about", "tokens", "distinct_texts")
                setting = {name: own[name] for name in kept}
                found.append({**setting, "plain": there})
    return found


def _no_bonus(points: Sequence[dict[str, Any]], lengths: All) -> list[dict[str, Any]]:
    """The settings of the frontier that those with a bonus are to be compared with, plain decoding among them."""
    weights = {cell.weight for cell in lengths}
    particles = {1, *(cell.particles for cell in lengths)}
    return [p for p in points if p["base_min_p"] == 0 and p["weight"] in weights and p["particles"] in particles]


def _level_bonus(points: Sequence[dict[str, Any]], lengths: All) -> list[dict[str, Any]]:
    """For each weight and number of particles: the bonus that makes answers as long as plain decoding's, read off
    between those that were decoded; None where none of them does."""
    found = []
    for weight, particles in dict.fromkeys((cell.weight, cell.particles) for cell in lengths):
        length = {
            p["particles"]: p["tokens"]["value"] for p in points if p["base_min_p"] == 0 and p["weight"] == weight
        }
        own = {0.0: length[particles]}
        for cell, draws in lengths.items():
            if (cell.weight, cell.particles) == (weight, particles):
                own[cell.length_bonus] = float(np.mean([row["tokens"] for row in draws["rows"]]))
        bonuses, tokens = sorted(own), np.maximum.accumulate([own[bonus] for bonus in sorted(own)])
        reached = tokens[0] <= length[1] <= tokens[-1]
        bonus = round(float(np.interp(length[1], tokens, bonuses)), 2) if reached else None
        found.append({"weight": weight, "particles": particles, "plain_tokens": length[1], "bonus": bonus})
    return found


def _demo(frontier: All) -> list[dict[str, Any]]:
    """What is checked, on the prompts of `genarm demo` alone."""
    own = [PROMPTS.index(prompt) for prompt in DEMO_PROMPTS]
    found = []
    for particles in (1, CHECKED_PARTICLES):
        cell, draws = find(frontier, *CHECKED, particles)
        of_all = figures(draws, cell, [row for row in draws["rows"] if row["prompt"] in own])
        found.append({name: value for name, value in of_all.items() if name != "seconds"})
    return found


def _checks(frontier: All) -> dict[str, Any]:
    """Particles less plain decoding at the same weight, without filters."""
    rows = [find(frontier, *CHECKED, particles)[1]["rows"] for particles in (CHECKED_PARTICLES, 1)]
    nats = difference(rows[0], rows[1], "base", "tokens")
    return {
        "weight": CHECKED[0],
        "particles": CHECKED_PARTICLES,
        "about": difference(rows[0], rows[1], "about").as_dict(),
        "base_nats": {"value": -nats.value, "low": -nats.high, "high": -nats.low},
    }


def _gaps(frontier: All, evidence: All) -> list[dict[str, Any]]:
    """What is left of log Z, by particles, where a large system says what log Z is."""
    found = []
    for weight in EVIDENCE_WEIGHTS:
        (cell, large) = next(item for item in evidence.items() if item[0].weight == weight)
        log_z = [float(np.mean(own)) for own in large["evidence"]]
        plain = find(frontier, weight, 0.0, 1)[1]["evidence"]
        for other, draws in frontier.items():
            if (other.weight, other.base_min_p) == (weight, 0.0) and other.particles > 1:
                own = left(log_z, plain, draws["evidence"])
                setting = {"weight": weight, "particles": other.particles, "log_z_from": cell.particles}
                found.append({**setting, "log_z": [round(value, 4) for value in log_z], **own})
    return found
