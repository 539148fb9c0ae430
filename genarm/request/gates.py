"""When to guide: thresholds on what the base itself says of the next token, for each row.

Source of the idea: methods that guide where the base is unsure, such as SIA and TARo, and leave most tokens alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidArgumentError
from .copies import expanded
from .guidance import PerRow, per_row

# {"entropy": nats} or {"top_probability": p}, each a number or [B]; or one such dict per sequence, None for no gate
GuideWhen = Mapping[str, PerRow] | Sequence[Mapping[str, float] | None] | None

# A threshold's name -> where it is off, and the most it may be. Columns of the table in this order.
THRESHOLDS: dict[str, tuple[float, float]] = {"entropy": (0.0, math.inf), "top_probability": (1.0, 1.0)}
FORMS = '{"entropy": nats} or {"top_probability": p}, or a list with one such dict per sequence'


def gate_table(guide_when: GuideWhen, batch: int, copies: int, device: torch.device) -> Tensor | None:
    """[B, 2] float32, the least entropy (nats) and the largest top probability of the base at which a token is guided;
    None where no row has a gate.

    ``copies``: sequences per prompt, where thresholds are given per prompt.
    """
    columns = []
    given = _columns(expanded_gates(guide_when, batch, copies), batch)
    for name, (off, most) in THRESHOLDS.items():
        rows = per_row(f"guide_when[{name!r}]", given.get(name, off), batch, torch.device("cpu"), 0.0, most)
        columns.append(torch.as_tensor(rows, dtype=torch.float32).expand(batch))
    table = torch.stack(columns, 1)
    return table.to(device) if bool(gated_rows(table).any()) else None


def expanded_gates(guide_when: GuideWhen, batch: int, copies: int) -> GuideWhen:
    """What is given for ``batch / copies`` prompts, for ``batch`` sequences."""
    if isinstance(guide_when, Mapping):
        return {name: expanded(value, batch, copies) for name, value in guide_when.items()}
    expanded_rows: GuideWhen = expanded(guide_when, batch, copies)
    return expanded_rows


def gated_rows(table: Tensor) -> Tensor:
    """[B] bool, the rows in which a token may go unguided."""
    off = table.new_tensor([off for off, _ in THRESHOLDS.values()])
    return (table != off).any(1)


def gated_bias(
    table: Tensor, weights: Tensor, bias: Tensor | None, prompt_ids: Sequence[int], vocab_size: int
) -> Tensor | None:
    """The scores' bias, None, [V] or [B, V], under gates.

    An id that a reward model of the row lacks cannot be drawn where a token is guided. It cannot be drawn where one is
    not either, since the model could not read it, and what it says of every later token would not be defined.

    Raises:
        InvalidArgumentError: a row has a gate and the base weight 0, which leaves unguided tokens no distribution.
    """
    gated = gated_rows(table)
    if bool((gated & (weights[:, 0] == 0)).any()):
        row = int((gated & (weights[:, 0] == 0)).int().argmax())
        raise InvalidArgumentError(
            f"row {row} has base_weight 0 and guide_when: a token that is not guided is drawn from the base alone, so "
            "give the base a weight, or leave guide_when out"
        )
    known = weights.new_tensor([min(ids, vocab_size) for ids in prompt_ids])
    least = torch.where((weights != 0) & gated[:, None], known, float(vocab_size)).amin(1)
    if bool((least == vocab_size).all()):
        return bias
    unread = torch.arange(vocab_size, device=weights.device) >= least[:, None]
    return torch.where(unread, -math.inf, 0.0 if bias is None else bias)


def _columns(guide_when: Any, batch: int) -> Mapping[str, Any]:
    """One dict, of a number or [B] for each threshold."""
    if guide_when is None:
        return {}
    if isinstance(guide_when, Mapping):
        _check_names(guide_when)
        return guide_when
    is_list = isinstance(guide_when, Sequence) and not isinstance(guide_when, str)
    if not is_list or not all(one is None or isinstance(one, Mapping) for one in guide_when):
        raise InvalidArgumentError(f"guide_when is {guide_when!r}: pass {FORMS}")
    if len(guide_when) != batch:
        raise InvalidArgumentError(f"guide_when is a list of {len(guide_when)} for {batch} sequences: give one each")
    rows = [one or {} for one in guide_when]
    for row in rows:
        _check_names(row)
        for name, value in row.items():
            if isinstance(value, bool) or not isinstance(value, Real):
                raise InvalidArgumentError(f"guide_when[{name!r}] is {value!r} in one row: pass a number there")
    return {name: [row.get(name, off) for row in rows] for name, (off, _) in THRESHOLDS.items()}


def _check_names(gate: Mapping[str, Any]) -> None:
    for name in gate:
        if name not in THRESHOLDS:
            close = get_close_matches(str(name), THRESHOLDS, n=1)
            meant = f"did you mean {close[0]!r}? " if close else ""
            raise InvalidArgumentError(f"guide_when names {name!r}: {meant}pass {FORMS}")
