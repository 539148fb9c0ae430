"""A Pareto sweep as tables and as the record that goes to JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..preferences.statistics import Estimate
from .pareto import Front


def show(front: Front, console: Console) -> None:
    """Print the cells, then the hypervolumes."""
    console.print(_cells(front))
    console.print(_volumes(front))


def as_record(front: Front) -> dict[str, Any]:
    """Everything that was measured, as JSON takes it: what is not finite is null."""
    sweep = front.sweep
    return {
        "objectives": dict(zip(sweep.objectives, sweep.measures, strict=True)),
        "intervals": {"over": sweep.unit, "count": len(sweep.values)},
        "reference_point": dict(zip(sweep.objectives, front.reference, strict=True)),
        "hypervolumes": {
            name: {
                "cells": found.cells,
                **_bounds(found.estimate),
                **({} if found.guided_minus is None else {"guided_minus_this": _bounds(found.guided_minus)}),
            }
            for name, found in front.hypervolumes.items()
        },
        "cells": list(_records(front)),
    }


def _records(front: Front) -> Iterator[dict[str, Any]]:
    sweep = front.sweep
    for place, (cell, found) in enumerate(zip(sweep.cells, front.estimates, strict=True)):
        yield {
            "family": cell.family,
            "weights": dict(zip(cell.names, cell.weights, strict=True)),
            "scores": {name: _bounds(found[name]) for name in sweep.objectives},
            "kl_to_base_nats": _bounds(found["kl"]),
            "kl_to_base_nats_per_token": _bounds(found["kl per token"]),
            "tokens": _bounds(found["tokens"]),
            "distinct_word_pairs": _number(sweep.distinct[place]),
            "on_front": bool(front.is_on[place]),
            "on_front_of_its_family": bool(front.is_on_own[place]),
            "on_front_in_resamples": _number(front.how_often[place]),
        }


def _cells(front: Front) -> Table:
    sweep = front.sweep
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("weights")
    for name in (*sweep.objectives, "KL", "tokens", "distinct", "front"):
        table.add_column(escape(name), justify="right", no_wrap=True)
    family = "guided"
    for place, (cell, found) in enumerate(zip(sweep.cells, front.estimates, strict=True)):
        if cell.family != family:
            family = cell.family
            table.add_section()
            table.add_row(f"[italic]{family}[/]")
        table.add_row(
            ", ".join(f"{weight:g}" for weight in cell.weights),
            *(_plain(found[name]) if _has_room(front) else _sign(found[name].value) for name in sweep.objectives),
            _sign(found["kl"].value),
            f"{found['tokens'].value:.1f}",
            f"{sweep.distinct[place]:.2f}",
            _mark(front, place),
            style="bold" if front.is_on[place] else None,
        )
    table.caption, table.caption_justify = escape(_caption(front)), "left"
    return table


def _caption(front: Front) -> str:
    sweep = front.sweep
    measures = dict.fromkeys(sweep.measures)
    each = zip(sweep.objectives, sweep.measures, strict=True)
    scores = next(iter(measures)) if len(measures) == 1 else "; ".join(f"{name}, {what}" for name, what in each)
    known = [f"Weights of {', '.join(sweep.objectives)}. Scores: {scores}. KL to the base in nats per text."]
    for cell in sweep.cells:
        if cell.family == "policies":
            known.append(f"Weights of policies: the shares of {', '.join(cell.names)}.")
            break
    if len(sweep.values) > 1:
        where = "± is half a 95% interval" if _has_room(front) else "The record (--json) has 95% intervals"
        known.append(f"{where} over {len(sweep.values)} {sweep.unit}.")
        known.append("●: on the front of all cells, ○: of its family, with how often resamples have it on the former.")
    else:
        known.append("One text per cell has no interval. ●: on the front of all cells, ○: of its family.")
    return " ".join(known)


def _has_room(front: Front) -> bool:
    """Whether intervals fit a line of 80 columns."""
    return len(front.sweep.objectives) == 2


def _mark(front: Front, place: int) -> str:
    mark = "●" if front.is_on[place] else "○" if front.is_on_own[place] else " "
    often = front.how_often[place]
    return mark if math.isnan(often) else f"{100 * often:.0f}% {mark}"


def _volumes(front: Front) -> Table:
    point = ", ".join(
        f"{name} {_sign(value)}" for name, value in zip(front.sweep.objectives, front.reference, strict=True)
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=f"Reference point: {escape(point)}.")
    table.caption_justify = "left"
    for name in ("family", "cells", "hypervolume", "guided minus this"):
        table.add_column(name, justify="left" if name == "family" else "right", no_wrap=True)
    for name, found in front.hypervolumes.items():
        minus = "" if found.guided_minus is None else _bracketed(found.guided_minus)
        table.add_row(name, str(found.cells), _bracketed(found.estimate), minus)
    return table


def _plain(found: Estimate) -> str:
    half = (found.high - found.low) / 2
    return _sign(found.value) if math.isnan(half) else f"{_sign(found.value)} ±{half:.2f}"


def _bracketed(found: Estimate) -> str:
    if math.isnan(found.low):
        return _sign(found.value, 3)
    return f"{_sign(found.value, 3)} [{_sign(found.low, 3)}, {_sign(found.high, 3)}]"


def _sign(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _bounds(found: Estimate) -> dict[str, float | None]:
    return {"value": _number(found.value), "low": _number(found.low), "high": _number(found.high)}


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None
