"""Options of the commands that write text about tokens that are drafted ahead."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..errors import InvalidArgumentError
from ..models.sources import model_path
from ..request.drafts import MOST, NGRAM, REWARD

DRAFTS = "Speculation"  # the panel of a help page
NAMES = (NGRAM, REWARD)

Speculate = Annotated[
    str | None,
    typer.Option(
        metavar=f"{NGRAM}|{REWARD}|MODEL",
        rich_help_panel=DRAFTS,
        help="Draft tokens ahead and verify them together, which changes no text: by what stood in it before (ngram), "
        "a reward model with weights of its own (reward), or a small model of the same tokens (folder or hub id).",
        show_default="one token per step",
    ),
]
Gamma = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        rich_help_panel=DRAFTS,
        help=f"How many tokens --speculate drafts per step, 1 to {MOST}; auto follows how many are right.",
        show_default="what suits the device",
    ),
]


def speculation(speculate: str | None, gamma: str | None, particles: int | None) -> dict[str, Any]:
    """What was written of them as keywords of ``GuidedDecoder.generate``.

    Raises:
        InvalidArgumentError: --gamma without --speculate, or no such number; particles beside them.
        LoadingError: the folder of a draft model is not there.
    """
    if speculate is None:
        if gamma is not None:
            raise InvalidArgumentError("--gamma is about drafts: give --speculate too")
        return {}
    if particles is not None:
        raise InvalidArgumentError(
            "--speculate and --particles were both given, and particles take each other's texts after every token: "
            "choose one of them"
        )
    found: dict[str, Any] = {"draft": speculate if speculate in NAMES else model_path(speculate)}
    if gamma is not None:
        found["gamma"] = "auto" if gamma == "auto" else _count(gamma)
    return {"speculate": found}


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MOST):
        raise InvalidArgumentError(f"--gamma is {text!r}: give a whole number from 1 to {MOST}, or auto")
    return int(text)
