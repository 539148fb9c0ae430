"""`genarm generate`: what is wrong with its command line or its input is said at once, before torch is imported."""

from __future__ import annotations

from ..errors import InvalidArgumentError
from ..models.sources import model_path, parse_rewards
from ..runs.rows import RunInput, prompt_rows, read_input
from .bulk_options import check_engine
from .console import say
from .options import GenerateOptions


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
    if not options.chat:
        _tell_of_system_messages(options, source)
    from . import outputs

    job = outputs.Job(options, base, rewards, source)
    if options.output is not None and options.engine is not None:
        from . import bulk

        return outputs.to_file(job, options.output, bulk.decode_on_cluster)
    if options.output is not None:
        return outputs.to_file(job, options.output)
    if options.input is not None or options.json:
        return outputs.to_lines(job)
    return outputs.to_reader(job)


def _check(options: GenerateOptions) -> None:
    if options.prompts and options.input is not None:
        raise InvalidArgumentError("a prompt and --input were both given: choose one of them")
    if not options.prompts and options.input is None:
        raise InvalidArgumentError(
            'there is nothing to generate from: give a prompt ("I really enjoy") or --input FILE'
        )
    if options.system is not None and options.input is None and not options.chat:
        raise InvalidArgumentError("--system is a message before a conversation: give --chat too")
    check_engine(options)
    if options.output is None and (options.retry_failed or options.overwrite):
        raise InvalidArgumentError("--retry-failed and --overwrite are about a file: give its name to --output")


def _tell_of_system_messages(options: GenerateOptions, source: RunInput) -> None:
    """Without --chat a prompt in text has no system message."""
    texts = [row for row in source.rows if isinstance(row.prompt, str)]
    if options.system is not None and len(texts) == len(source.rows):
        raise InvalidArgumentError(
            "--system is a message before a conversation, and the prompts are texts: give --chat too"
        )
    if any(isinstance(row.columns.get("system"), str) for row in texts):
        say("the column system is kept and not read: with --chat it is the system message of a text prompt")


def _input(options: GenerateOptions) -> RunInput:
    if options.input is None:
        return prompt_rows(options.prompts)
    source = read_input(options.input)
    both = [path for path in (options.output, options.input) if path is not None and path.exists()]
    if len(both) == 2 and both[0].samefile(both[1]):
        raise InvalidArgumentError(f"--input and --output are both {options.output}: write to another file")
    return source
