"""`genarm play --server`: the page over a running `genarm serve`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InvalidArgumentError
from .play_page import check_installed, page_defaults, show


def run(
    server: str,
    key: str | None,
    rewards: Sequence[str],
    settings: Mapping[str, Any],
    where: tuple[str, int | None],
    opens: bool,
) -> int:
    """Serve the page until the process is asked to end; its exit status.

    Args:
        server, key: the server's address, and its API key where it has one.
        rewards: weights to begin with, NAME:WEIGHT; without any they are the server's.
        settings: of the page, ``beta`` None for the server's.
        where: the page's host and port.

    Raises:
        GenARMError: nobody answers there or it is no `genarm serve`, or a reward model that it does not have.
    """
    check_installed()
    from ..play.connection import Connection
    from ..play.served import ServedWriter

    connection = Connection(server, key)
    model = connection.model()
    weights = named_weights(rewards, list(model.weights)) if rewards else model.weights
    beta = model.beta if settings["beta"] is None else settings["beta"]
    defaults = page_defaults(weights, {**settings, "beta": beta, "base_min_p": 0.0}, "")
    about = f"Server: {connection.address}, which serves {model.name}."
    writer = ServedWriter(connection, model, defaults, about, connection.has_chat_template(model))
    return show(writer, [], model.longest, where, opens)


def named_weights(rewards: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """The weights NAME:WEIGHT (1 without) of a server's reward models; those that are not named have 0.

    Raises:
        InvalidArgumentError: a name that the server does not have, or a weight that is no number.
    """
    found = dict.fromkeys(names, 0.0)
    for text in rewards:
        name, colon, weight = text.partition(":") if text not in found else (text, "", "")
        if name not in found:
            raise InvalidArgumentError(
                f"--reward {text}: with --server write NAME:WEIGHT, of the server's reward models {', '.join(names)}"
            )
        try:
            found[name] = float(weight) if colon else 1.0
        except ValueError:
            found[name] = math.nan
        if not math.isfinite(found[name]):
            raise InvalidArgumentError(f"--reward {text}: {weight!r} is no weight, give a number")
    return found
