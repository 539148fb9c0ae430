"""`genarm generate`: checks everything it can before it loads a model, and everything else before it makes a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from ..models.options import resolve_device, resolve_dtype
from ..models.sources import RewardChoice, fingerprint, model_path, parse_rewards
from ..runs.output import OutputFile
from ..runs.rows import RunInput, prompt_rows, read_input
from ..runs.run import Task, run
from .console import Display, Lines, say
from .loading import load
from .options import ModelOptions
from .streaming import Reader, stream


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """The command line of `genarm generate`. ``decoding`` holds keywords of ``GuidedDecoder.generate``."""

    models: ModelOptions = field(default_factory=ModelOptions)
    prompts: Sequence[str] = ()
    input: Path | None = None
    output: Path | None = None
    decoding: dict[str, Any] = field(default_factory=dict)
    samples: int = 1
    seed: int = 0
    chat: bool = False
    system: str | None = None
    json: bool = False
    stats: bool = False
    as_completed: bool = False
    retry_failed: bool = False
    overwrite: bool = False


def generate(options: GenerateOptions) -> int:
    """Run the command; its exit status: 0, or 1 when a row failed or an entry of the input holds no row, or 130.

    Raises:
        GenARMError: the run cannot start or continue; finished rows are kept.
    """
    _check(options)
    base, rewards = model_path(options.models.base), parse_rewards(options.models.rewards)
    source = _input(options).sampled(options.samples)
    for problem in source.problems:
        say(f"error: {problem}")
    if not source.rows:
        return 1
    if options.output is not None:
        return _to_file(options, base, rewards, source, options.output)
    if options.input is not None or options.json:
        return _to_lines(options, base, rewards, source)
    return _to_reader(options, base, rewards, source)


def settings_of(
    options: GenerateOptions, base: str, rewards: Sequence[RewardChoice], source: RunInput
) -> dict[str, Any]:
    """What the rows of a run depend on, and no more: neither batch size nor device nor order."""
    models = {"base": base, "content of base": fingerprint(base)}
    for reward in rewards:
        models[f"reward {reward.name}"] = reward.path
        models[f"content of {reward.name}"] = fingerprint(reward.path)
    dtype = resolve_dtype(options.models.dtype, resolve_device(options.models.device))
    return {
        **models,
        "weights": {reward.name: reward.weight for reward in rewards},
        **options.decoding,
        "samples per prompt": options.samples,
        "seed": options.seed,
        "max_length": options.models.max_length,
        "dtype": str(dtype).removeprefix("torch."),
        "chat": options.chat,
        "system": options.system,
        "content of the input": source.digest,
    }


def _check(options: GenerateOptions) -> None:
    if options.prompts and options.input is not None:
        raise InvalidArgumentError("a prompt and --input were both given: choose one of them")
    if not options.prompts and options.input is None:
        raise InvalidArgumentError(
            'there is nothing to generate from: give a prompt ("I really enjoy") or --input FILE'
        )
    if options.system is not None and options.input is None and not options.chat:
        raise InvalidArgumentError("--system is a message before a conversation: give --chat too")
    if options.output is None and (options.retry_failed or options.overwrite):
        raise InvalidArgumentError("--retry-failed and --overwrite are about a file: give its name to --output")


def _input(options: GenerateOptions) -> RunInput:
    if options.input is None:
        return prompt_rows(options.prompts)
    source = read_input(options.input)
    both = [path for path in (options.output, options.input) if path is not None and path.exists()]
    if len(both) == 2 and both[0].samefile(both[1]):
        raise InvalidArgumentError(f"--input and --output are both {options.output}: write to another file")
    return source


def _to_file(options: GenerateOptions, base: str, rewards: Sequence[RewardChoice], source: RunInput, path: Path) -> int:
    output = OutputFile(path, settings_of(options, base, rewards, source), options.overwrite)
    keys = [row.key for row in source.rows]
    try:
        output.inspect(keys, options.retry_failed)
        if len(output.finished) == len(keys):
            _arrange(options, output, source)
            say(f"{path} is complete already: {_count(output)}")
            return _status(source, output)
        task = _load(options, base, rewards)
        output.begin()
        with Display(len(keys) - len(output.finished)) as display:
            run(task, source.rows, output, display.report)
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


def _to_lines(options: GenerateOptions, base: str, rewards: Sequence[RewardChoice], source: RunInput) -> int:
    """Rows of JSON on the standard output."""
    task = _load(options, base, rewards)
    with Display(len(source.rows)) as display:
        run(task, source.rows, Lines(), display.report)
    if options.input is not None or options.stats:
        say(display.tally.summary())
    return int(bool(display.tally.failed or source.problems))


def _to_reader(options: GenerateOptions, base: str, rewards: Sequence[RewardChoice], source: RunInput) -> int:
    """Texts on the standard output as they are written, under --chat the answers alone."""
    task = _load(options, base, rewards)
    reader = Reader(len(source.rows), echo=not options.chat)
    try:
        tally = stream(task, source.rows, reader, options.stats)
    finally:
        reader.end()
    if options.stats:
        say(tally.summary())
    return int(bool(tally.failed))


def _load(options: GenerateOptions, base: str, rewards: Sequence[RewardChoice]) -> Task:
    """Load the models and check every option with them."""
    decoder = load(options.models, base, rewards)
    weights = {reward.name: reward.weight for reward in rewards}
    task = Task(
        decoder, weights, options.seed, options.chat, options.system, options.as_completed, dict(options.decoding)
    )
    task.check()
    return task


def _arrange(options: GenerateOptions, output: OutputFile, source: RunInput) -> None:
    if not options.as_completed:
        output.arrange([row.key for row in source.rows])


def _count(output: OutputFile) -> str:
    failed = sum(output.finished.values())
    return f"{len(output.finished)} rows" + (f", {failed} of them failed" if failed else "")


def _status(source: RunInput, output: OutputFile) -> int:
    return int(bool(source.problems) or any(output.finished.values()))
