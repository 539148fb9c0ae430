"""Where the texts of `genarm generate` go: into a file, as rows to the standard output, or to a reader.

Everything that can be checked is checked before a model is loaded, and everything else before a file is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from ..models.options import resolve_device, resolve_dtype
from ..models.sources import RewardChoice, fingerprint
from ..runs.method import NamedMethod, parse_settings
from ..runs.output import OutputFile
from ..runs.results import Result
from ..runs.rows import RunInput
from ..runs.run import PER_ROW, Task, run
from .console import Display, Lines, say
from .loading import load
from .options import GenerateOptions
from .speculation_options import NAMES
from .streaming import Reader, stream


@dataclass(frozen=True, slots=True)
class Job:
    """A command line whose models and input were found."""

    options: GenerateOptions
    base: str
    rewards: Sequence[RewardChoice]
    source: RunInput


# Decodes the rows that an output lacks, and is told of each result once it is written.
Decode = Callable[[Callable[[Result], None]], None]


def decode_here(job: Job, output: OutputFile) -> Decode:
    """What decodes in this process, with its models loaded and every option checked."""
    task = load_task(job)
    return lambda report: run(task, job.source.rows, output, report)


def to_file(job: Job, path: Path, prepare: Callable[[Job, OutputFile], Decode] = decode_here) -> int:
    """Rows of JSON in a file that resumes; the exit status. ``prepare`` says where they are decoded."""
    options, source = job.options, job.source
    output = OutputFile(path, settings_of(job), options.overwrite)
    keys = [row.key for row in source.rows]
    try:
        output.inspect(keys, options.retry_failed)
        if len(output.finished) == len(keys):
            _arrange(options, output, source)
            say(f"{path} is complete already: {_count(output)}")
            return _status(source, output)
        decode = prepare(job, output)
        output.begin()
        with Display(len(keys) - len(output.finished)) as display:
            decode(display.report)
        _arrange(options, output, source)
        say(f"{path}: {_count(output)}; {display.tally.summary()}")
        return _status(source, output)
    except KeyboardInterrupt as interrupt:
        say(
            f"interrupted: {len(output.finished)} of {len(keys)} rows are in {path}; the same command resumes there"
            if output.finished
            else "interrupted before the first row"
        )
        return int(getattr(interrupt, "status", 130))
    finally:
        output.close()


def to_lines(job: Job) -> int:
    """Rows of JSON on the standard output; the exit status."""
    options, source = job.options, job.source
    task = load_task(job)
    with Display(len(source.rows)) as display:
        run(task, source.rows, Lines(), display.report)
    if options.input is not None or options.stats:
        say(display.tally.summary())
    return int(bool(display.tally.failed or source.problems))


def to_reader(job: Job) -> int:
    """Texts on the standard output as they are written, under --chat the answers alone; the exit status."""
    options, source = job.options, job.source
    task = load_task(job)
    reader = Reader(len(source.rows), echo=not options.chat)
    try:
        tally = stream(task, source.rows, reader, options.stats)
    finally:
        reader.end()
    if options.stats:
        say(tally.summary())
    return int(bool(tally.failed))


def load_task(job: Job) -> Task:
    """Load the models and check every option with them."""
    options = job.options
    method = method_of(options)
    decoder = load(options.models, job.base, job.rewards)
    weights = {reward.name: reward.weight for reward in job.rewards}
    task = Task(
        decoder,
        weights,
        options.seed,
        options.chat,
        options.system,
        options.as_completed,
        dict(options.decoding),
        method=method,
        chosen=options.chosen,
    )
    task.check()
    return task


def method_of(options: GenerateOptions) -> NamedMethod | None:
    """What --method and --set name, checked."""
    if options.method is None:
        if options.method_settings:
            raise InvalidArgumentError("--set is about a method: name it with --method (genarm methods lists them)")
        return None
    method = NamedMethod(options.method, parse_settings(options.method_settings))
    for name in options.chosen & method.settings.keys():
        raise InvalidArgumentError(f"{name} is given as an option and by --set: give it once")
    method.check()
    return method


def _arrange(options: GenerateOptions, output: OutputFile, source: RunInput) -> None:
    if not options.as_completed:
        output.arrange([row.key for row in source.rows])


def _count(output: OutputFile) -> str:
    failed = sum(output.finished.values())
    return f"{len(output.finished)} rows" + (f", {failed} of them failed" if failed else "")


def _status(source: RunInput, output: OutputFile) -> int:
    return int(bool(source.problems) or any(output.finished.values()))


def _method_settings(options: GenerateOptions) -> dict[str, Any]:
    """The method and its settings, with the content of those that are models' folders."""
    if options.method is None:
        return {}
    settings = parse_settings(options.method_settings)
    paths = {name: value for name, value in settings.items() if isinstance(value, str) and Path(value).is_dir()}
    contents = {f"content of {name}": fingerprint(path) for name, path in paths.items()}
    # Written out, they are no longer the method's own.
    usual = sorted(name for name in options.chosen if name in PER_ROW and options.decoding[name] == PER_ROW[name])
    written = {"method's options": usual} if usual else {}
    return {"method": options.method, "method's settings": settings, **written, **contents}


def settings_of(job: Job) -> dict[str, Any]:
    """What the rows of a run depend on, and no more: neither batch size nor device nor order."""
    options = job.options
    models = {"base": job.base, "content of base": fingerprint(job.base)}
    for reward in job.rewards:
        models[f"reward {reward.name}"] = reward.path
        models[f"content of {reward.name}"] = fingerprint(reward.path)
    terminal = options.decoding.get("terminal")
    draft = options.decoding.get("speculate", {}).get("draft")
    dtype = resolve_dtype(options.models.dtype, resolve_device(options.models.device))
    return {
        **models,
        "reward bases": sorted(options.models.reward_bases),
        **({"objectives": sorted(options.models.objectives)} if options.models.objectives else {}),
        "weights": {reward.name: reward.weight for reward in job.rewards},
        **options.decoding,
        **({"content of terminal": fingerprint(terminal)} if terminal else {}),
        **({"content of the draft model": fingerprint(draft)} if draft not in (None, *NAMES) else {}),
        **_method_settings(options),
        "samples per prompt": options.samples,
        "seed": options.seed,
        "max_length": options.models.max_length,
        "dtype": str(dtype).removeprefix("torch."),
        "chat": options.chat,
        "system": options.system,
        "content of the input": job.source.digest,
        **({"engine": options.engine} if options.engine else {}),
    }
