"""Options of the commands that draw whole answers by weight, from particles."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..errors import InvalidArgumentError
from ..models.sources import model_path

WHOLE = "Whole answers"  # the panel of a help page

Particles = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=WHOLE,
        min=1,
        help="Write each text N times at once and take one by its weight: closer to the product of the models over "
        "whole answers.",
        show_default="token by token",
    ),
]
ResampleBelow = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        rich_help_panel=WHOLE,
        min=0,
        max=1,
        help="Replace light particles by copies of heavy ones once fewer than X·N of them count; 0 never, 1 always.",
        show_default="0.5",
    ),
]
ResampleEvery = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=WHOLE, min=1, help="Look every N tokens whether to.", show_default="1"),
]
LengthBonus = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        rich_help_panel=WHOLE,
        help="Nats added to a particle's weight for each token: above 0, longer answers.",
        show_default="0",
    ),
]
Terminal = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        rich_help_panel=WHOLE,
        help="A trajectory RM, whose score of each whole answer, over --beta, is added to its weight.",
    ),
]


def whole_answers(
    particles: int | None,
    resample_below: float | None,
    resample_every: int | None,
    length_bonus: float | None,
    terminal: str | None,
) -> dict[str, Any]:
    """What was written of them as keywords of ``GuidedDecoder.generate``.

    Raises:
        InvalidArgumentError: one of the others without --particles.
        LoadingError: the folder of --terminal is not there.
    """
    values = {
        "resample_below": resample_below,
        "resample_every": resample_every,
        "length_bonus": length_bonus,
        "terminal": None if terminal is None else model_path(terminal),
    }
    written = {name: value for name, value in values.items() if value is not None}
    if particles is not None:
        return {"particles": particles, **written}
    for name in written:
        raise InvalidArgumentError(f"--{name.replace('_', '-')} is about particles: give --particles N too")
    return {}
