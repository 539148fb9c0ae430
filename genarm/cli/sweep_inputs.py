"""What sweeps over weights read from a command line: numbers between commas, prompts without their own weights."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InvalidArgumentError
from ..runs.rows import RunInput, prompt_rows, read_input
from .options import GenerateOptions


def numbers(option: str, text: str) -> list[float]:
    """Such as 0,0.5,1. Raises InvalidArgumentError for anything else."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidArgumentError(f"{option} {text!r} cannot be read: write numbers with commas between") from None


def sweep_prompts(given: GenerateOptions, default: Sequence[str] = ()) -> RunInput:
    """The prompts of the command line, of its --input, or else the default ones.

    Raises:
        InvalidArgumentError: none or both of them, rows with weights, or rows that cannot be read.
    """
    if given.prompts and given.input is not None:
        raise InvalidArgumentError("a prompt and --input were both given: choose one of them")
    texts = given.prompts or default
    if given.input is None and not texts:
        raise InvalidArgumentError(
            'there is nothing to generate from: give a prompt ("I really enjoy") or --input FILE'
        )
    source = prompt_rows(texts) if given.input is None else read_input(given.input)
    if len({str(row.id) for row in source.rows}) < len(source.rows):
        raise InvalidArgumentError(f"{source.name} has the same id as text and as a number: give every row its own")
    for row in source.rows:
        if row.weights is not None:
            raise InvalidArgumentError(
                f"row {row.id!r} of {source.name} has weights, which a sweep sets: leave them out"
            )
    if source.problems:
        raise InvalidArgumentError("; ".join(source.problems))
    return source
