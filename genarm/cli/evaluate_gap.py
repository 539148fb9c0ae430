"""`genarm evaluate gap`: everything that can be checked is, then systems are decoded, compared and shown."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..errors import InvalidArgumentError
from ..evaluation import gap_plot
from ..evaluation.gap import Evidence, Gap, gap, scaled_cells
from ..evaluation.gap_report import as_record, show
from ..evaluation.plots import check_picture
from ..models.sources import model_path, parse_rewards
from ..runs.rows import Row
from .console import say
from .demo import PROMPTS
from .gap_systems import Measuring, decode
from .info import collect
from .options import GenerateOptions
from .sweep_inputs import numbers, sweep_prompts


@dataclass(frozen=True, slots=True)
class GapOptions:
    """The command line of `genarm evaluate gap`. ``generate`` has what it shares with `genarm generate`."""

    generate: GenerateOptions
    weights: str = "1"
    particles: str = "1,4,16,64"
    json: Path | None = None
    plot: Path | None = None


def run(options: GapOptions, console: Console) -> int:
    """Decode, measure, print, write what was asked for; the exit status: 1 where a system failed, 130 when stopped.

    Raises:
        GenARMError: options, prompts or models that cannot be used, or nothing that could be measured.
    """
    measuring = _measuring(options)
    started = time.perf_counter()
    rows, status = decode(measuring)
    if rows is None:
        return status
    systems, prompts = measuring.systems(rows)
    if len(prompts) < len(measuring.source.rows):
        lost = len(measuring.source.rows) - len(prompts)
        say(f"{lost} of {len(measuring.source.rows)} prompts are left out: systems of theirs failed")
    gaps = [gap(found) for found in systems]
    show(gaps, console)
    _write(options, measuring, prompts, systems, gaps, time.perf_counter() - started)
    return status


def _measuring(options: GapOptions) -> Measuring:
    given = options.generate
    base, rewards = model_path(given.models.base), parse_rewards(given.models.rewards)
    if not rewards:
        raise InvalidArgumentError("there is no product to be far from: give --reward, for example --reward art")
    if given.decoding["temperature"] == 0:
        raise InvalidArgumentError("--temperature 0 draws nothing, so it has no distribution: give a number above 0")
    factors = numbers("--weights", options.weights)
    if not all(map(math.isfinite, factors)):
        raise InvalidArgumentError(f"--weights is {options.weights}: weights are finite numbers")
    cells = scaled_cells([one.name for one in rewards], [one.weight for one in rewards], factors)
    found = Measuring(given, base, rewards, cells, _particles(options.particles), sweep_prompts(given, PROMPTS))
    if options.plot is not None:
        check_picture("--plot", options.plot)
    for place in (options.json, options.plot):
        if place is not None:
            place.touch()
    return found


def _particles(text: str) -> list[int]:
    """The numbers of particles in order, 1 among them, which is plain decoding."""
    found = sorted({1.0, *numbers("--particles", text)})
    if found[0] < 1 or len(found) < 2 or any(number != int(number) for number in found):
        raise InvalidArgumentError(f"--particles is {text}: write whole numbers with commas between, one above 1")
    return [int(number) for number in found]


def _write(
    options: GapOptions,
    measuring: Measuring,
    prompts: Sequence[Row],
    systems: Sequence[Evidence],
    gaps: Sequence[Gap],
    seconds: float,
) -> None:
    samples = options.generate.samples
    if options.json is not None:
        ids = [row.id for row in prompts]
        record = {
            "settings": measuring.settings(),
            "prompts": len(prompts),
            "samples": samples,
            "versions": collect().versions,
            "seconds": round(seconds, 1),
            "weights": [
                as_record(found, ids, own.log_evidence[1].mean(1)) for found, own in zip(gaps, systems, strict=True)
            ],
        }
        options.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.plot is not None:
        gap_plot.draw(gaps, len(prompts), samples, options.plot)
