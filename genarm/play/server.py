"""Serves the page until the process is asked to end. Nothing leaves the machine: no fonts, no figures of use."""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import InvalidArgumentError
from .look import CSS, theme
from .page import build
from .parts import Example
from .settings import NEW_TOKENS
from .written import Writer


def launch(
    writer: Writer,
    examples: Sequence[Example],
    longest: int,
    host: str,
    port: int | None,
    opens: bool = False,
) -> tuple[Any, str]:
    """Start the page's server beside this thread -> the page, which is closed by its ``close``, and its address.

    Args:
        longest: tokens of a prompt and what follows it, at most.
        port: None takes the first one from 7860 that is free.
        opens: whether a browser is opened on it.

    Raises:
        InvalidArgumentError: the port is taken, or the host is not this machine's.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    page = build(writer, examples, min(NEW_TOKENS[1], longest))
    page.queue(default_concurrency_limit=None)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            inbrowser=opens,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            footer_links=["settings"],
            theme=theme(),
            css=CSS,
        )
    except OSError as error:
        where = f"--host {host}" + ("" if port is None else f" --port {port}")
        raise InvalidArgumentError(f"{where}: the page cannot be served there ({error}): choose another") from None
    return page, address


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def wait(page: Any) -> NoReturn:
    """Until this thread is interrupted; then the page is closed."""
    try:
        while True:
            time.sleep(1.0)
    finally:
        page.close(verbose=False)
