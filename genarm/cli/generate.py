"""`genarm generate`: checks everything it can before it loads a model, and everything else before it makes a file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from ..decoder import GuidedDecoder
from ..errors import InvalidArgumentError, RunError
from ..models.options import resolve_device, resolve_dtype
from ..models.sources import RewardChoice, fingerprint, model_path, parse_rewards
from ..runs.output import OutputFile
from ..runs.rows import RunInput, prompt_rows, read_input
from ..runs.run import Sink, Task, run
from .console import Display, Lines, Pages, say


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """The command line of `genarm generate`. ``decoding`` holds keywords of ``GuidedDecoder.generate``."""

    base: str | None = None
    rewards: Sequence[str] = ()
    prompts: Sequence[str] = ()
    input: Path | None = None
    output: Path | None = None
    decoding: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    batch_size: int = 8
    max_length: int = 4096
    dtype: str = "auto"
    device: str = "auto"
    chat: bool = False
    overwrite: bool = False
    trust_remote_code: bool = False


def generate(options: GenerateOptions) -> int:
    """Run the command; its exit status: 0, or 1 when a row failed or a line of the input holds no row, or 130.

    Raises:
        GenARMError: the run cannot start or continue; finished rows are kept.
    """
    base, rewards = model_path(options.base), parse_rewards(options.rewards)
    source = _input(options)
    for problem in source.problems:
        say(f"error: {problem}")
    if not source.rows:
        return 1
    if options.output is None:
        sink = Pages() if options.input is None else Lines()
        return _decode(options, base, rewards, source, sink)
    output = OutputFile(options.output, settings_of(options, base, rewards, source), options.overwrite)
    try:
        output.inspect([row.id for row in source.rows])
        if len(output.finished) == len(source.rows):
            say(f"{output.path} is complete already: {_count(output)}")
            return _status(source, output)
        return _decode(options, base, rewards, source, output)
    except KeyboardInterrupt:
        say(
            f"interrupted: {len(output.finished)} of {len(source.rows)} rows are in {output.path}; the same command "
            "resumes there"
            if output.finished
            else "interrupted before the first row"
        )
        return 130
    finally:
        output.close()


def settings_of(
    options: GenerateOptions, base: str, rewards: Sequence[RewardChoice], source: RunInput
) -> dict[str, Any]:
    """What the rows of a run depend on, and no more: neither batch size nor device."""
    models = {"base": base, "content of base": fingerprint(base)}
    for reward in rewards:
        models[f"reward {reward.name}"] = reward.path
        models[f"content of {reward.name}"] = fingerprint(reward.path)
    return {
        **models,
        "weights": {reward.name: reward.weight for reward in rewards},
        **options.decoding,
        "seed": options.seed,
        "max_length": options.max_length,
        "dtype": str(resolve_dtype(options.dtype, resolve_device(options.device))).removeprefix("torch."),
        "chat": options.chat,
        "content of the input": source.digest,
    }


def _input(options: GenerateOptions) -> RunInput:
    if options.prompts and options.input is not None:
        raise InvalidArgumentError("--prompt and --input were both given: choose one of them")
    if options.input is not None:
        source = read_input(options.input)
        if options.output is not None and options.output.exists() and options.output.samefile(options.input):
            raise InvalidArgumentError(f"--input and --output are both {options.output}: write to another file")
        return source
    if not options.prompts:
        raise InvalidArgumentError("there is nothing to generate from: give --prompt TEXT or --input FILE")
    return prompt_rows(options.prompts)


def _decode(
    options: GenerateOptions, base: str, rewards: Sequence[RewardChoice], source: RunInput, sink: Sink | OutputFile
) -> int:
    task = _load(options, base, rewards)
    if isinstance(sink, OutputFile):
        sink.begin()
    with Display(len(source.rows) - len(sink.finished)) as display:
        run(task, source.rows, sink, display.report)
    done = display.tally.summary()
    say(f"{sink.path}: {_count(sink)}; {done}" if isinstance(sink, OutputFile) else done)
    failed = display.tally.failed
    return _status(source, sink) if isinstance(sink, OutputFile) else int(bool(failed or source.problems))


def _load(options: GenerateOptions, base: str, rewards: Sequence[RewardChoice]) -> Task:
    """Load the models and check every option with them."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        decoder = GuidedDecoder.from_pretrained(
            base,
            {reward.name: reward.path for reward in rewards},
            dtype=options.dtype,
            device=options.device,
            max_batch_size=options.batch_size,
            max_length=options.max_length,
            trust_remote_code=options.trust_remote_code,
        )
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise RunError(f"the models do not fit into memory ({error}): choose a smaller --dtype or model") from error
    weights = {reward.name: reward.weight for reward in rewards}
    task = Task(decoder, weights, options.seed, options.chat, options.decoding)
    task.check()
    return task


def _count(output: OutputFile) -> str:
    failed = sum(output.finished.values())
    return f"{len(output.finished)} rows" + (f", {failed} of them failed" if failed else "")


def _status(source: RunInput, output: OutputFile) -> int:
    return int(bool(source.problems) or any(output.finished.values()))
