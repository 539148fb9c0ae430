"""`genarm evaluate accuracy`: everything that can be checked is, then each model is loaded and scores every file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from ..evaluation import plots
from ..evaluation import report as accuracy_table
from ..evaluation.choices import Choice, base_path, parse_choices, parse_data
from ..evaluation.pair_sets import PairSet, read_set
from ..evaluation.precision import scoring_dtype
from ..evaluation.report import as_record, reports
from ..evaluation.scorers import Scores, fitting_length, pair_scores, quiet
from ..models.options import Source, resolve_device
from ..preferences.chat import pair_tokenizer
from ..preferences.reading import PairReading, conditions
from .console import say
from .info import collect


@dataclass(frozen=True, slots=True)
class AccuracyOptions:
    """The command line of `genarm evaluate accuracy`."""

    base: str | None = None
    data: Sequence[str] = ()
    where: Sequence[str] = ()
    reading: PairReading = field(default_factory=PairReading)
    rewards: Sequence[str] = ()
    reward_bases: Sequence[str] = ()
    trajectory_rms: Sequence[str] = ()
    dpos: Sequence[str] = ()
    by: str | None = None
    cluster: str | None = None
    limit: int | None = None
    max_length: int | None = None
    batch_size: int = 64
    dtype: str = "auto"
    device: str = "auto"
    output: Path | None = None
    plot: Path | None = None
    trust_remote_code: bool = False


def run(options: AccuracyOptions, console: Console) -> int:
    """Measure, print tables, write what was asked for; the exit status.

    Raises:
        GenARMError: options, data or models that cannot be used.
    """
    choices, base = (
        parse_choices(options.rewards, options.trajectory_rms, options.dpos, options.reward_bases),
        base_path(options.base),
    )
    _check_outputs(options)
    device = resolve_device(options.device)
    source = Source(
        scoring_dtype(options.dtype, device, [base, *(choice.path for choice in choices)], say),
        device,
        options.trust_remote_code,
    )
    with quiet():
        max_length = fitting_length(base, options.max_length, options.trust_remote_code)
        tokenizer = pair_tokenizer(base, options.trust_remote_code)
        sets = _read(options, tokenizer, max_length)
        scores = _score(base, choices, sets, tokenizer, source, options.batch_size)
    found = reports(sets, scores)
    accuracy_table.show(found, console, options.by)
    if options.output is not None:
        settings = _settings(options, base, max_length, source)
        data = [as_record(report) for report in found]
        record = {"settings": settings, "versions": collect().versions, "data": data}
        options.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.plot is not None:
        plots.draw(found, options.plot)
    return 0


def _check_outputs(options: AccuracyOptions) -> None:
    """A place that cannot be written shows before the minutes are spent."""
    if options.plot is not None:
        plots.check_picture("--plot", options.plot)
    for place in (options.output, options.plot):
        if place is not None:
            place.touch()


def _read(options: AccuracyOptions, tokenizer: Any, max_length: int | None) -> list[PairSet]:
    where = conditions(options.where)
    return [
        read_set(name, path, tokenizer, max_length, where, options.limit, options.cluster, options.by, options.reading)
        for name, path in parse_data(options.data).items()
    ]


def _score(
    base: str, choices: Sequence[Choice], sets: Sequence[PairSet], tokenizer: Any, source: Source, batch_size: int
) -> list[Scores]:
    """Scores in the order the choices were given, the base's last."""
    found = {}
    for scores in pair_scores(base, choices, [pairs.pairs for pairs in sets], tokenizer, source, batch_size):
        found[scores.choice.name] = scores
        say(f"{scores.choice.name}: {sum(len(values) for values in scores.values):,} pairs scored")
    return [found[name] for name in [*(choice.name for choice in choices), "base"]]


def _settings(options: AccuracyOptions, base: str, max_length: int | None, source: Source) -> dict[str, Any]:
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    settings["reading"] = options.reading.as_record()
    dtype, device = str(source.dtype).removeprefix("torch."), str(source.device)
    return {**settings, "base": base, "max_length": max_length, "dtype": dtype, "device": device}
