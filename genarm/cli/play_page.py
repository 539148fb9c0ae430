"""The page of `genarm play` over whatever writes: what it begins with, and how it is shown."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgumentError, RunError
from .console import say

if TYPE_CHECKING:
    from ..play.parts import Example
    from ..play.settings import PlaySettings
    from ..play.written import Writer


def check_installed() -> None:
    """Raise RunError where the page cannot be made."""
    if find_spec("gradio") is None:
        raise RunError("the page needs Gradio, which is not installed: pip install 'genarm[play]'")


def page_defaults(weights: Mapping[str, float], settings: Mapping[str, Any], prompt: str) -> PlaySettings:
    """What the page begins with.

    Raises:
        InvalidArgumentError: there is no reward model, or a setting that the page has no place for.
    """
    from ..play.history import default_axes
    from ..play.settings import BETAS, MOST_SEED, NEW_TOKENS, TEMPERATURES, PlaySettings

    if not weights:
        raise InvalidArgumentError("a base without a reward model: give the page one with --reward NAME=PATH:WEIGHT")
    ranges = {"beta": BETAS, "temperature": TEMPERATURES, "seed": (0, MOST_SEED), "max-new-tokens": NEW_TOKENS}
    for name, (low, high) in ranges.items():
        value = settings["new_tokens" if name == "max-new-tokens" else name]
        if not low <= value <= high:
            raise InvalidArgumentError(f"--{name} is {value:g}: the page's control goes from {low:g} to {high:g}")
    names = list(weights)
    return PlaySettings(prompt=prompt, weights=weights, colour=names[0], axes=default_axes(names), **settings)


def show(writer: Writer, examples: Sequence[Example], longest: int, where: tuple[str, int | None], opens: bool) -> int:
    """Serve the page until the process is asked to end; its exit status.

    Args:
        longest: tokens of a prompt and what follows it, at most.
        where: the host and the port, None for the first one that is free.
        opens: whether a browser is opened on it.

    Raises:
        GenARMError: the page cannot be served there.
    """
    from ..play.server import is_loopback, launch, wait

    host, port = where
    if not is_loopback(host):
        warnings.warn(
            f"--host {host}: whoever reaches this machine can use the page, which asks for no password", stacklevel=2
        )
    page, address = launch(writer, examples, longest, host, port, opens)
    say(f"the page is at {address} (Ctrl-C ends)")
    try:
        wait(page)
    except KeyboardInterrupt as interrupt:  # Ctrl-C or, with a status of its own, SIGTERM: how a server is ended
        return int(getattr(interrupt, "status", 130))
