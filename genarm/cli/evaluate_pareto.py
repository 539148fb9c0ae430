"""`genarm evaluate pareto`: everything that can be checked is, then every cell of the sweep is decoded and measured."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..errors import InvalidArgumentError, RewardNameError
from ..evaluation import pareto_plot
from ..evaluation.cells import SOUP, guided_cells, policy_cells, soup_cells
from ..evaluation.choices import Choice, base_path, parse_choices
from ..evaluation.pareto import Front, front, moocore
from ..evaluation.pareto_report import as_record, show
from ..evaluation.pareto_texts import Score, measured, whole_prompts
from ..evaluation.plots import check_picture
from .console import say
from .info import collect
from .options import GenerateOptions
from .sweep_inputs import numbers, sweep_prompts
from .sweeping import Sweeping, decode
from .trajectory_scores import trajectory_scores


@dataclass(frozen=True, slots=True)
class ParetoOptions:
    """The command line of `genarm evaluate pareto`. ``generate`` has what it shares with `genarm generate`, its batch
    size 0 where the sweep chooses."""

    generate: GenerateOptions
    trajectory_rms: Sequence[str] = ()
    dpos: Sequence[str] = ()
    grid: str | None = None
    steps: int | None = None
    soup: bool = False
    soup_steps: int = 4
    score: Score = "mean"
    reference: str | None = None
    json: Path | None = None
    plot: Path | None = None


def run(options: ParetoOptions, console: Console) -> int:
    """Decode, measure, print tables, write what was asked for; the exit status: 1 where a row failed, 130 when stopped.

    Raises:
        GenARMError: options, prompts or models that cannot be used, or no figures to compare.
    """
    moocore()  # without it nothing is decoded
    sweeping = _sweeping(options)
    objectives = sweeping.objectives
    trajectory_rms = parse_choices((), options.trajectory_rms)
    reference = numbers("--reference", options.reference) if options.reference else None
    _check(options, objectives, trajectory_rms, reference)
    started = time.perf_counter()
    found = decode(sweeping)
    if found.texts is None:
        return found.status
    whole = whole_prompts(found.texts)
    if len(whole) < len(found.texts):
        say(f"{len(found.texts) - len(whole)} of {len(found.texts)} prompts are left out: rows of theirs failed")
    texts = [found.texts[place] for place in whole]
    prompts = [sweeping.source.rows[place] for place in whole]
    scores = trajectory_scores(trajectory_rms, texts, prompts, sweeping)
    temperature = options.generate.decoding["temperature"]
    result = front(measured(texts, sweeping.cells, objectives, options.score, temperature, scores), reference)
    show(result, console)
    _write(options, sweeping, result, time.perf_counter() - started)
    return found.status


def _sweeping(options: ParetoOptions) -> Sweeping:
    """The models, the cells and the prompts that the command line names."""
    given, base = options.generate, base_path(options.generate.models.base)
    rewards = parse_choices(given.models.rewards, reward_bases=given.models.reward_bases)
    policies = parse_choices(dpos=options.dpos)
    names = [choice.name for choice in rewards]
    if SOUP in names and (options.soup or policies):
        raise InvalidArgumentError(f"a reward model is named {SOUP!r}, as the average is: give it another name")
    cells = guided_cells(names, None if options.steps else numbers("--grid", options.grid or ""), options.steps)
    if options.soup:
        cells += soup_cells(cells)
    if policies:
        cells += policy_cells([choice.name for choice in policies], options.soup_steps)
    return Sweeping(given, base, rewards, policies, cells, sweep_prompts(given))


def _check(
    options: ParetoOptions, objectives: tuple[str, ...], trajectory_rms: list[Choice], reference: list[float] | None
) -> None:
    """What would be found wrong only after the decoding."""
    for choice in trajectory_rms:
        if choice.name not in objectives:
            raise RewardNameError(
                f"--trajectory-rm {choice.name}: it scores an objective in its reward model's place, and there is none "
                f"of that name: {', '.join(objectives)}"
            )
    if reference is not None and len(reference) != len(objectives):
        raise InvalidArgumentError(
            f"--reference has {len(reference)} numbers: give one per objective, in the order {', '.join(objectives)}"
        )
    if options.plot is not None:
        check_picture("--plot", options.plot)
    for place in (options.json, options.plot):
        if place is not None:
            place.touch()


def _write(options: ParetoOptions, sweeping: Sweeping, result: Front, seconds: float) -> None:
    if options.json is not None:
        record = {
            "settings": sweeping.settings(),
            "score": options.score,
            "prompts": len(sweeping.source.rows),
            "versions": collect().versions,
            "seconds": round(seconds, 1),
            **as_record(result),
        }
        options.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.plot is not None:
        pareto_plot.draw(result, options.plot)
