"""Options of `genarm generate` about where its rows are decoded."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import InvalidArgumentError
from .options import GenerateOptions

MANY = "Many machines"  # the panel of a help page
RAY = "ray"

Engine = Annotated[
    str | None,
    typer.Option(
        metavar="ray",
        rich_help_panel=MANY,
        help="Decode in engines of vLLM's that Ray runs on the machines of a cluster; needs --output.",
        show_default="here, in this process",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        rich_help_panel=MANY,
        help="The Ray cluster: auto for one that this machine is part of.",
        show_default="one on this machine alone",
    ),
]
Engines = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=MANY,
        min=1,
        help="How many engines decode at once.",
        show_default="one per GPU, or per machine where there are none",
    ),
]


def check_engine(options: GenerateOptions) -> None:
    """Raise InvalidArgumentError for a command line that no cluster is needed to say no to."""
    if options.engine is None:
        if options.address is not None or options.engines is not None:
            raise InvalidArgumentError("--address and --engines are about a cluster: give --engine ray too")
        return
    if options.engine != RAY:
        raise InvalidArgumentError(f"--engine is {options.engine!r}: there is {RAY}, or none to decode here")
    if options.output is None:
        raise InvalidArgumentError("--engine ray writes rows as they come: give it a file with --output")
    if options.method is not None:
        raise InvalidArgumentError("--method decodes here: leave --engine out")
